"""A function of rows, from a few rows at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ops._validation import check_integer

Tree = TypeVar("Tree")
Values = TypeVar("Values")


def in_chunks(
  function: Callable[[Tree], Values], rows: Tree, chunk_size: int | None
) -> Values:
  """Returns `function(rows)`, values a row, from a few rows at a time.

  What the function makes of a chunk, rows of a matrix of pairs say, is dropped
  before the next one and made again in the backward pass.

  Args:
    function: from rows to values, one or more a row.
    rows: a tree of arrays `[rows, ...]`.
    chunk_size: rows at a time; None for all at once.

  Returns:
    The values of all rows.
  """
  size = jax.tree.leaves(rows)[0].shape[0]
  if chunk_size is not None:
    check_integer("chunk_size", chunk_size, 1)
  if chunk_size is None or chunk_size >= size:
    return function(rows)
  # Rows of the sample fill the last chunk: distances are computed from the
  # mean of a chunk, which zeros might move far away.
  index = jnp.arange(-(-size // chunk_size) * chunk_size) % size

  def split(x: Array) -> Array:
    x = x if index.size == size else x[index]
    return x.reshape(-1, chunk_size, *x.shape[1:])

  def joined(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])[:size]

  chunks = jax.tree.map(split, rows)
  values = jax.lax.map(jax.checkpoint(function, prevent_cse=False), chunks)
  return jax.tree.map(joined, values)
