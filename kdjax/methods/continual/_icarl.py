"""iCaRL: binary cross-entropies of all classes."""

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import continual
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.continual._past_classes import marks, past_mask
from kdjax.methods.continual._row_kinds import past


def _icarl(*, past_classes: ArrayLike = 0.0) -> Objective:
  """The loss of iCaRL; without past classes as in the first task.

  The nearest-mean classifier is `continual.herding` with the learner's
  embeddings.
  """

  def loss(
    student_logits: Array,
    past_logits: Array,
    labels: Array,
    *,
    past_classes: Array,
  ) -> Array:
    known = past_mask(past_classes, student_logits)
    return continual.icarl_loss(student_logits, past_logits, labels, known)

  return stateless(loss, past_classes=marks(past_classes))


ROWS = {
  "icarl": past(
    "iCaRL",
    "binary cross-entropies: past answers for past classes, labels for new",
    _icarl,
    cross_entropy=0.0,
    tuned="",
  ),
}
