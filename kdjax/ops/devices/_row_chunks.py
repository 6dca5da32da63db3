"""Evaluation of a function of rows in chunks."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kdjax.ops.devices._explicit_axes import explicit_mesh, in_auto_axes
from kdjax.ops.devices._export import is_symbolic
from kdjax.ops.validation._checks import check_integer

Tree = TypeVar("Tree")
Values = TypeVar("Values")


def in_chunks(
  function: Callable[[Tree], Values], rows: Tree, chunk_size: int | None
) -> Values:
  """Returns `function(rows)`, evaluated on chunks of the rows.

  The intermediate results of a chunk, for example rows of a matrix of pairs,
  are not stored; the backward pass computes them again.

  Args:
    function: maps rows to arrays with a leading axis of rows.
    rows: a pytree of arrays `[rows, ...]`.
    chunk_size: the number of rows of a chunk; None for all rows at once.

  Returns:
    The values of all rows.
  """
  first = jax.tree.leaves(rows)[0]
  if (mesh := explicit_mesh(rows)) is not None:
    specs = PartitionSpec(*jax.typeof(first).sharding.spec[:1])
    chunked = functools.partial(in_chunks, function, chunk_size=chunk_size)
    return in_auto_axes(chunked, (rows,), {}, mesh, specs)
  size = first.shape[0]
  if chunk_size is not None:
    check_integer("chunk_size", chunk_size, 1)
  if chunk_size is None or (not is_symbolic(size) and chunk_size >= size):
    return function(rows)
  # Fill the last chunk with rows of the sample: rows of zeros could move the
  # mean of the chunk, from which distances are computed, far away.
  index = jnp.arange(-(-size // chunk_size) * chunk_size) % size

  def split(x: Array) -> Array:
    x = x if index.size == size else x[index]
    return x.reshape(-1, chunk_size, *x.shape[1:])

  def join(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])[:size]

  chunks = jax.tree.map(split, rows)
  values = jax.lax.map(jax.checkpoint(function, prevent_cse=False), chunks)
  return jax.tree.map(join, values)
