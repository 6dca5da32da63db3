"""What the losses on feature maps share."""

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.distillation._teacher_side import teacher_side
from kdjax.ops._softmax import compute_dtype


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


def unit(x: Array, axis: int = -1) -> Array:
  """Divides by the Euclidean norm; the zero vector stays, without gradient.

  A norm below 1e-12 counts as 1e-12, as in PyTorch's `normalize`, whose
  gradient at the zero vector, 1e12, is that of no dead channel.
  """
  squares = jnp.sum(jnp.square(x), axis, keepdims=True)
  zero = squares == 0  # NaN is not: it must reach the caller
  norm = jnp.sqrt(jnp.where(zero, 1.0, squares))
  return jnp.where(zero, 0.0, x / jnp.maximum(norm, 1e-12))
