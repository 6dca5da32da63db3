"""The inner optimizer step of meta-learning over domains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def inner_step(
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None,
  step_size: ArrayLike,
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """Returns `inner_update`, or gradient descent if it is None."""
  if inner_update is not None:
    return inner_update

  def descend(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    def moved(value: Array, gradient: Array) -> Array:
      return value - jnp.asarray(step_size, gradient.dtype) * gradient

    return jax.tree.map(moved, params, gradients), state

  return descend
