"""The examples of a batch as rows, and their pairs, over all devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import gather_batch
from kdjax.ops import safe_norm
from kdjax.ops._softmax import compute_dtype


class Rows(NamedTuple):
  """A network's rows: this device's, and those of the whole batch."""

  local: Float[Array, "batch dims"]
  whole: Float[Array, "whole dims"]


class Pairs(NamedTuple):
  """Which pairs of (this device's row, any row) count."""

  rows: Bool[Array, " batch"]
  columns: Bool[Array, " whole"]
  counted: Bool[Array, "batch whole"]
  diagonal: Bool[Array, "batch whole"]


def counted(
  x: Float[Array, "..."], where: Bool[Array, "..."] | None
) -> Float[Array, "..."]:
  """Returns x, 0 where masked: a mask on the loss leaves 0 times NaN behind.

  The mask has x's leading axes. NaN in what counts stays.
  """
  if where is None:
    return x
  return jnp.where(jnp.expand_dims(where, range(where.ndim, x.ndim)), x, 0.0)


def flat_rows(
  x: Float[Array, "batch ..."], where: Bool[Array, " batch"] | None
) -> Float[Array, "batch dims"]:
  """Returns the examples as vectors, 0 where masked whatever they held."""
  return counted(x.astype(compute_dtype(x)).reshape(x.shape[0], -1), where)


def batch_rows(
  x: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Rows:
  """Returns the examples as vectors, here and everywhere."""
  rows = flat_rows(x, where)
  return Rows(rows, gather_batch(rows, axis_name))


def pairs(
  x: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Pairs:
  """Returns the pairs of a batch."""
  rows = jnp.ones(x.shape[:1], bool) if where is None else where
  columns = gather_batch(rows, axis_name)
  index = jnp.arange(rows.size)
  if axis_name is not None:
    index += rows.size * jax.lax.axis_index(axis_name)
  diagonal = index[:, None] == jnp.arange(columns.size)[None]
  return Pairs(rows, columns, rows[:, None] & columns[None], diagonal)


def products(rows: Rows) -> Float[Array, "batch whole"]:
  """Returns the inner products of this device's rows with all."""
  # The default precision on GPU and TPU keeps 10 or 8 bits: too few here.
  return jnp.matmul(rows.local, rows.whole.T, precision="highest")


def directions(
  x: Float[Array, "... dims"], eps: float = 0.0
) -> Float[Array, "... dims"]:
  """Returns x / (norm + eps); the zero vector is 0, with gradient 0."""
  norm = safe_norm(x, keepdims=True)
  dead = norm == 0  # NaN is not: it must reach the caller
  return jnp.where(dead, 0.0, x) / jnp.where(dead, 1.0, norm + eps)


def unit_rows(rows: Rows, eps: float = 0.0) -> Rows:
  """Returns the rows' directions."""
  return Rows(directions(rows.local, eps), directions(rows.whole, eps))


def total(x: Array, axis_name: str | None) -> Array:
  """Returns the sum over the devices of a mapped axis, if there is one."""
  return x if axis_name is None else jax.lax.psum(x, axis_name)


def nonzero(x: Array) -> Array:
  """Returns x, or 1 where x is 0 and the quotient is 0 anyway."""
  return jnp.where(x == 0, 1.0, x)
