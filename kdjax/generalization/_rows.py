"""What counts in a batch of several domains, and sums over its devices."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops._softmax import compute_dtype

Tree = TypeVar("Tree")


def counted(
  values: Float[Array, "..."], where: Bool[Array, "..."] | None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Returns the values, 0 where masked whatever they held, and the mask.

  The mask has the leading axes of the values; without one all of the first two
  axes (domains and their examples) or the only axis count.
  """
  values = values.astype(compute_dtype(values))
  if where is None:
    return values, jnp.ones(values.shape[:2], values.dtype)
  keep = jnp.expand_dims(where, range(where.ndim, values.ndim))
  return jnp.where(keep, values, 0.0), where.astype(values.dtype)


def total(tree: Tree, axis_name: str | None) -> Tree:
  """Returns the sum over the devices of a mapped axis, if there is one."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def at_least_one(count: Array) -> Array:
  """Returns a count that may divide."""
  return jnp.maximum(count, 1)


def pair_mean(
  pairs: Float[Array, "domains domains"], present: Float[Array, " domains"]
) -> Float[Array, ""]:
  """Returns the mean over unordered pairs of different domains that exist."""
  both = present[:, None] * present[None]
  both = both * (1 - jnp.eye(present.size, dtype=both.dtype))
  return jnp.sum(both * pairs) / at_least_one(jnp.sum(both))
