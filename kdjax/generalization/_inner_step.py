"""The inner optimizer step of meta-learning over domains."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops


def inner_step(
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None,
  step_size: ArrayLike,
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """Returns `inner_update`, or gradient descent if it is None."""
  if inner_update is not None:
    return inner_update

  def descend(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    def moved(value: Array, gradient: Array) -> Array:
      step = ops.as_number("step_size", step_size, gradient.dtype)
      return value - step * gradient

    return jax.tree.map(moved, params, gradients), state

  return descend
