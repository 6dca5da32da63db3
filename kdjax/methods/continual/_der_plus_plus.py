"""DER++: stored logits of one draw, and labels of a second one."""

from jax.typing import ArrayLike

from kdjax import continual, ops
from kdjax.methods._combine import combine
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods.continual._buffer import with_buffer
from kdjax.methods.continual._der import STORED
from kdjax.methods.continual._row_kinds import replay


def _der_plus_plus(
  *,
  weight: ArrayLike = 0.2,
  label_weight: ArrayLike = 1.0,
  buffer: int | None = None,
  draws: int | None = None,
) -> Method:
  """As DER, whose buffer holds logits, with the labels of a second draw.

  Without a buffer of its own, the batch has the parts `"replay"` and
  `"second_replay"`.
  """
  labels = ("second_replay_logits", "second_replay_labels")
  objective = combine(
    {
      "logits": (weight, stateless(continual.der_loss, STORED)),
      "labels": (label_weight, stateless(ops.cross_entropy, labels)),
    }
  )
  parts = ("replay", "second_replay")
  return with_buffer(objective, buffer, draws, parts=parts, logits=True)


ROWS = {
  "der_plus_plus": replay(
    "DER++",
    "stored logits of one draw, and labels of a second one",
    _der_plus_plus,
    weight=0.2,
    domains=("replay", "second_replay"),
    source="mammoth, Split-MNIST, buffer of 200",
  ),
}
