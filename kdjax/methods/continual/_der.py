"""Dark experience replay (DER)."""

from kdjax import continual
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods.continual._buffer import with_buffer
from kdjax.methods.continual._row_kinds import replay

STORED = ("replay_logits", "replay_stored_logits")


def _der(*, buffer: int | None = None, draws: int | None = None) -> Method:
  """Replayed examples keep the logits that the student had for them.

  With a buffer of the given size the method stores these logits itself;
  otherwise the part `"replay"` of the batch has them as `"stored_logits"`.
  """
  objective = stateless(continual.der_loss, STORED)
  return with_buffer(objective, buffer, draws, logits=True)


ROWS = {
  "der": replay(
    "DER",
    "replayed examples keep the logits that they were stored with",
    _der,
    weight=0.2,
    source="mammoth, Split-MNIST, buffer of 200",
  ),
}
