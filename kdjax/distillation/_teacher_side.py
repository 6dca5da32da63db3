"""Stops the gradient to the teacher."""

import jax
from jaxtyping import Array


def teacher_side(array: Array, stop_gradient: bool) -> Array:
  """Returns the teacher's array, without gradient if `stop_gradient`."""
  return jax.lax.stop_gradient(array) if stop_gradient else array
