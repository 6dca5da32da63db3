"""Rows and pairs of the examples of a batch, over all devices."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops

Values = TypeVar("Values")


class Rows(NamedTuple):
  """One network's embeddings: of this device, and of the whole batch."""

  local: Float[Array, "batch dims"]
  whole: Float[Array, "whole dims"]


class Pairs(NamedTuple):
  """The masks of the pairs (row of this device, row of the whole batch)."""

  rows: Bool[Array, " batch"]
  columns: Bool[Array, " whole"]
  positions: Int[Array, " batch"]

  @property
  def valid(self) -> Bool[Array, "batch whole"]:
    """Returns True for a pair of two unmasked rows."""
    return self.rows[:, None] & self.columns[None]

  @property
  def diagonal(self) -> Bool[Array, "batch whole"]:
    """Returns True for the pair of a row with itself."""
    return self.positions[:, None] == jnp.arange(self.columns.size)[None]


def flat_rows(
  x: Float[Array, "batch ..."], where: Bool[Array, " batch"] | None
) -> Float[Array, "batch dims"]:
  """Returns the examples as vectors, 0 in masked rows."""
  return ops.zero_masked(
    x.astype(ops.compute_dtype(x)).reshape(x.shape[0], -1), where
  )


def batch_rows(
  x: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Rows:
  """Returns the examples as vectors, of this device and of all devices."""
  rows = flat_rows(x, where)
  return Rows(rows, ops.gather_batch(rows, axis_name))


def pairs(
  x: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Pairs:
  """Returns the masks of the pairs of a batch."""
  rows = jnp.ones(x.shape[:1], bool) if where is None else where
  columns = ops.gather_batch(rows, axis_name)
  return Pairs(rows, columns, ops.gathered_positions(rows.size, axis_name))


def over_rows(
  function: Callable[..., Values],
  *sides: Rows,
  pair: Pairs,
  chunk_size: int | None,
) -> Values:
  """Returns `function(*sides, pair)`, for `chunk_size` rows at a time."""

  def of_part(part: tuple[list[Array], Array, Array]) -> Values:
    locals_, rows, positions = part
    chunks = [
      side._replace(local=local)
      for side, local in zip(sides, locals_, strict=True)
    ]
    return function(*chunks, pair._replace(rows=rows, positions=positions))

  parts = [side.local for side in sides], pair.rows, pair.positions
  return ops.in_chunks(of_part, parts, chunk_size)


def pair_mean(
  function: Callable[[Rows, Rows, Pairs], Float[Array, "chunk whole"]],
  student: Rows,
  teacher: Rows,
  *,
  pair: Pairs,
  chunk_size: int | None,
  axis_name: str | None,
) -> Float[Array, ""]:
  """Returns the mean of a function over the unmasked pairs, by `over_rows`."""

  def sums(student: Rows, teacher: Rows, pair: Pairs) -> Float[Array, " chunk"]:
    return jnp.sum(function(student, teacher, pair), 1, where=pair.valid)

  values = over_rows(sums, student, teacher, pair=pair, chunk_size=chunk_size)
  count = jnp.sum(pair.columns, dtype=values.dtype)
  return ops.masked_mean(
    values / ops.nonzero_divisor(count), pair.rows, axis_name=axis_name
  )


def products(rows: Rows) -> Float[Array, "batch whole"]:
  """Returns the inner products of this device's rows with all rows."""
  # The default precision on GPU and TPU keeps 10 or 8 bits, too few for
  # differences of similarities.
  return jnp.matmul(rows.local, rows.whole.T, precision="highest")


def unit_rows(rows: Rows, epsilon: float = 0.0) -> Rows:
  """Returns the rows divided by their norms."""
  local = ops.unit_vectors(rows.local, epsilon)
  alone = rows.whole is rows.local
  return Rows(local, local if alone else ops.unit_vectors(rows.whole, epsilon))
