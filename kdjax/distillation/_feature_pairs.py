"""What the losses on feature maps share."""

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.distillation._teacher_side import teacher_side
from kdjax.ops import compute_dtype


def as_pair(
  student: Array, teacher: Array, stop_teacher_gradient: bool
) -> tuple[Array, Array]:
  """Student and teacher in one dtype, float32 at least."""
  dtype = jnp.promote_types(compute_dtype(student), compute_dtype(teacher))
  return (
    student.astype(dtype),
    teacher_side(teacher.astype(dtype), stop_teacher_gradient),
  )


def example_mean(x: Array) -> Array:
  """The mean over all axes but the first."""
  return jnp.mean(x, tuple(range(1, x.ndim)))
