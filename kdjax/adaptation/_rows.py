"""Rows that count, and sums over a batch that several devices hold."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops._softmax import compute_dtype

Tree = TypeVar("Tree")


def masked_rows(
  rows: Float[Array, "batch ..."], where: Bool[Array, " batch"] | None
) -> tuple[Float[Array, "batch ..."], Float[Array, " batch"]]:
  """Returns the rows, 0 where masked whatever they held, and the mask."""
  rows = rows.astype(compute_dtype(rows))
  if where is None:
    return rows, jnp.ones(rows.shape[:1], rows.dtype)
  keep = jnp.expand_dims(where, range(1, rows.ndim))
  return jnp.where(keep, rows, 0.0), where.astype(rows.dtype)


def total(tree: Tree, axis_name: str | None) -> Tree:
  """Returns the sum over the devices of a mapped axis, if there is one."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)
