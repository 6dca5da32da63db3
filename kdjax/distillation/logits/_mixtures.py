"""Weighted sums of two losses that may be infinite."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops


def mix(name: str, weight: ArrayLike, first: Array, second: Array) -> Array:
  """Returns weight * first + (1 - weight) * second, with 0 * inf = 0."""
  share = ops.as_fraction(name, weight, first.dtype, shape=first.shape)

  def weighed(share: Array, value: Array) -> Array:
    return share * jnp.where((share == 0) & jnp.isposinf(value), 0.0, value)

  return weighed(share, first) + weighed(1 - share, second)
