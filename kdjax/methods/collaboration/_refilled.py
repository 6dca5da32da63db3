"""ReFilled, stage 2."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._objective import Objective, batch_mean, stateless
from kdjax.methods.collaboration._row_kinds import taught


def _refilled(
  class_centers: ArrayLike, *, temperature: ArrayLike = 2.0
) -> Objective:
  """ReFilled, stage 2: over the classes that the batch has."""

  def loss(
    student_logits: Array,
    teacher_embeddings: Array,
    labels: Array,
    *,
    class_centers: Array,
    temperature: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    count = student_logits.shape[-1]
    mask = where.astype(student_logits.dtype)
    members = ops.class_one_hot("refilled", labels, count, mask)
    classes = ops.sum_over_devices(jnp.sum(members, 0), axis_name) > 0
    values = collaboration.refilled_class_loss(
      student_logits,
      teacher_embeddings,
      class_centers,
      classes,
      temperature=temperature,
    )
    return batch_mean(values, {"mask": where}, axis_name, _refilled)

  centers = jnp.asarray(class_centers)
  return stateless(loss, class_centers=centers, temperature=temperature)


ROWS = {
  "refilled": taught(
    "ReFilled, stage 2",
    "a teacher of other classes classifies by its class centers",
    _refilled,
    weight=100.0,
    source="authors",
  ),
}
