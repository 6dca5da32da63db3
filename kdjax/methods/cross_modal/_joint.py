"""The joint objective: a task, a teacher of another modality, alignment."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import cross_modal
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import field_of
from kdjax.nets import layers


def _cross_modal_joint(
  *,
  distillation: ArrayLike = 1.0,
  alignment: ArrayLike = 1.0,
  temperature: ArrayLike = 4.0,
) -> Objective:
  """`cross_modal_joint_loss`; other widths are mapped to the teacher's."""

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours = field_of("student", student, "embedding").shape[-1]
    theirs = field_of("teacher", teacher, "embedding").shape[-1]
    return _Map(ours, theirs, rngs)

  def loss(
    module: Any,
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    student_embeddings: Array,
    teacher_embeddings: Array,
    **hyperparameters: ArrayLike,
  ) -> Array:
    return cross_modal.cross_modal_joint_loss(
      student_logits,
      teacher_logits,
      labels,
      module(student_embeddings),
      teacher_embeddings,
      **hyperparameters,
    )

  return modular(
    build,
    loss,
    distillation=distillation,
    alignment=alignment,
    temperature=temperature,
  )


class _Map(nnx.Module):
  """A linear map to another width; nothing if the widths are equal."""

  def __init__(self, width: int, teacher_width: int, rngs: nnx.Rngs):
    self.mapped = width != teacher_width
    if self.mapped:
      self.map = layers.linear(width, teacher_width, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.map(x) if self.mapped else x
