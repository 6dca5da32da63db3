"""Learning without forgetting over the classes of earlier tasks."""

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import continual
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.continual._past_classes import marks, past_mask
from kdjax.methods.continual._row_kinds import past


def task_lwf(
  *, past_classes: ArrayLike = 1.0, temperature: ArrayLike = 2.0
) -> Objective:
  """LwF over the classes of earlier tasks, by default over all."""

  def loss(
    student_logits: Array,
    past_logits: Array,
    *,
    past_classes: Array,
    temperature: ArrayLike,
  ) -> Array:
    known = past_mask(past_classes, student_logits)
    return continual.lwf_loss(
      student_logits, past_logits, known, temperature=temperature
    )

  return stateless(
    loss, past_classes=marks(past_classes), temperature=temperature
  )


ROWS = {
  "task_lwf": past(
    "LwF over tasks",
    "the answers of the network before the task, over past classes",
    task_lwf,
  ),
}
