"""Rows that count, and sums over a batch that several devices hold."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import gather_batch
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


def whole_rows(
  rows: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, "whole ..."], Float[Array, " whole"]]:
  """Returns :func:`masked_rows` of all devices; end with :func:`agreed`."""
  rows, mask = masked_rows(rows, where)
  return gather_batch(rows, axis_name), gather_batch(mask, axis_name)


def total(tree: Tree, axis_name: str | None) -> Tree:
  """Returns the sum over the devices of a mapped axis, if there is one."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def agreed(value: Array, axis_name: str | None) -> Array:
  """Returns a value that all devices have computed from gathered rows.

  It is equal already; the mean makes its gradient the batch's.
  """
  return value if axis_name is None else jax.lax.pmean(value, axis_name)
