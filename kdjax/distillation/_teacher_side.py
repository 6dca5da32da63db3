"""The teacher's side of a loss."""

import jax
from jaxtyping import Array


def teacher_side(array: Array, stop_gradient: bool) -> Array:
  """Returns the teacher's array, without gradient unless it was asked for."""
  return jax.lax.stop_gradient(array) if stop_gradient else array
