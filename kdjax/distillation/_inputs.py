"""Student and teacher arrays as a loss needs them: dtype and gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops


def teacher_side(array: Array, stop_gradient: bool) -> Array:
  """Returns the teacher's array, without gradient if `stop_gradient`."""
  return jax.lax.stop_gradient(array) if stop_gradient else array


def as_pair(
  student: Array, teacher: Array, stop_teacher_gradient: bool
) -> tuple[Array, Array]:
  """Returns student and teacher in one dtype, at least float32."""
  dtype = jnp.promote_types(
    ops.compute_dtype(student), ops.compute_dtype(teacher)
  )
  return (
    student.astype(dtype),
    teacher_side(teacher.astype(dtype), stop_teacher_gradient),
  )


def example_mean(x: Array) -> Array:
  """Returns the mean over all axes but the first."""
  return jnp.mean(x, tuple(range(1, x.ndim)))
