"""Choice of the implementation, and loops over chunks of rows."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops

IMPLEMENTATIONS = ("xla", "chunked")


# Only `fused_divergence` has kernels, for KL.
KERNELS = ("mosaic_gpu", "mosaic_tpu")
_LOGGER = logging.getLogger("kdjax.fused")


def choose_chunk(
  function: str,
  implementation: str | None,
  chunk_size: int | None,
  rows: int,
  classes: int,
  sizes: Mapping[str, tuple[float | int, int]],
) -> int:
  """Returns the number of rows computed at a time.

  Args:
    function: the name of the calling function, for messages.
    implementation: the user's choice, or None.
    chunk_size: the user's choice, or None.
    rows: the number of rows.
    classes: the number of classes.
    sizes: backend -> (the largest number of logits computed at once, the
      approximate number of logits a chunk). Other backends use the sizes of
      "gpu".

  Raises:
    ValueError: if the implementation is unknown or not available, or if
      `chunk_size` is given for an implementation without chunks.
  """
  if implementation in KERNELS:
    raise ValueError(
      f"{function}: implementation {implementation!r} is not available; "
      f"expected None or one of {IMPLEMENTATIONS}."
    )
  if implementation is not None:
    ops.check_choice("implementation", implementation, IMPLEMENTATIONS)
  if ops.is_symbolic(rows):
    if chunk_size is not None or implementation == "chunked":
      raise ValueError(
        f"{function}: the number of rows is symbolic, {rows}, so it cannot be "
        "divided into chunks; expected chunk_size=None and implementation None "
        "or 'xla'."
      )
    return rows
  if chunk_size is not None:
    ops.check_integer("chunk_size", chunk_size, 1)
    if implementation == "xla":
      raise ValueError(
        f"chunk_size is {chunk_size}; expected None for implementation 'xla', "
        "which has no chunks, or implementation 'chunked'."
      )
    return min(chunk_size, rows)
  backend = jax.default_backend()
  whole, chunk = sizes.get(backend, sizes["gpu"])
  if implementation is None:
    implementation = "xla" if rows * classes <= whole else "chunked"
    _log_once(
      f"{function}: {implementation!r} for [{rows}, {classes}] logits, "
      f"{'at most' if implementation == 'xla' else 'more than'} {whole} in "
      f"all; kernels are chosen by name only"
    )
  if implementation == "xla":
    return rows
  return min(rows, max(1, chunk // classes))


def fitting_kernel(
  function: str, kernel: str, rows: int, classes: int
) -> str | None:
  """Returns the name of the kernel, or None if the shape needs XLA."""
  if kernel == "mosaic_gpu" and (rows % 8 or classes % 64):
    _log_once(
      f"{function}: 'xla' for [{rows}, {classes}] logits; 'mosaic_gpu' copies "
      "multiples of 8 rows and 64 classes"
    )
    return None
  return kernel


@functools.cache
def _log_once(message: str) -> None:
  _LOGGER.info(message)


def over_chunks(
  body: Callable[[Any, Array, Array], tuple[Any, Any]],
  carry: Any,
  rows: int,
  chunk: int,
  *operands: Any,
) -> tuple[Any, Any]:
  """Runs `body(carry, start, fresh)` over chunks of rows.

  The last chunk overlaps the chunk before it; padding would copy the operands.
  `fresh` is True for the rows that no earlier chunk has. A row of the overlap
  is written twice with equal values; `body` must mask it in a sum.

  Args:
    body: returns the next carry and arrays `[chunk]` of its rows.
    carry: arrays; they are marked as varying over the operands' mapped axes.
    rows: the number of rows.
    chunk: the number of rows a chunk, at most `rows`.
    *operands: the arrays that `body` reads.

  Returns:
    The last carry and the arrays for all rows.
  """
  carry = jax.tree.map(
    lambda x: ops.vary_like(x, *jax.tree.leaves(operands)), carry
  )
  if chunk == rows:
    return body(carry, jnp.zeros((), jnp.int32), jnp.ones(rows, bool))

  def step(carry: Any, index: Array) -> tuple[Any, Any]:
    start = jnp.minimum(index * chunk, rows - chunk)
    return body(carry, start, start + jnp.arange(chunk) >= index * chunk)

  chunks = -(-rows // chunk)
  carry, numbers = jax.lax.scan(step, carry, jnp.arange(chunks))
  seen = (chunks - 1) * chunk
  return carry, jax.tree.map(
    lambda x: jnp.concatenate([x[:-1].ravel(), x[-1, seen - rows :]]), numbers
  )


def take_rows(tree: Any, start: Array, chunk: int) -> Any:
  """Returns `chunk` rows of every array of a tree."""
  return jax.tree.map(
    lambda x: (
      x
      if x.shape[0] == chunk
      else jax.lax.dynamic_slice_in_dim(x, start, chunk)
    ),
    tree,
  )


def put_rows(tree: Any, part: Any, start: Array) -> Any:
  """Writes the rows of `part` into the arrays of a tree."""
  return jax.tree.map(
    lambda x, y: (
      y.astype(x.dtype)
      if x.shape == y.shape
      else jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), start, 0)
    ),
    tree,
    part,
  )


def unfused(function: Callable[..., Any], start: Array, *operands: Any) -> Any:
  """Returns `function(*operands)`, without fusion with later operations.

  XLA's CPU compiler computes operations fused with the update of a carry one
  element at a time: logarithms take ten times as long (jax 0.12). The compiler
  does not fuse the branch of a condition, and it cannot know that `start` is at
  least 0.
  """
  if jax.default_backend() != "cpu":
    return function(*operands)
  leaves = jax.tree.leaves(operands)
  zeros = jax.tree.map(
    lambda x: ops.vary_like(jnp.zeros(x.shape, x.dtype), *leaves),
    jax.eval_shape(function, *operands),
  )
  operands = jax.tree.map(lambda x: ops.vary_like(x, *leaves), operands)
  return jax.lax.cond(
    start >= 0,
    lambda zeros, operands: function(*operands),
    lambda zeros, operands: zeros,
    zeros,
    operands,
  )


def weigh(gradient: Array, weights: Array) -> Array:
  """Returns rows times their weights; weight 0 gives 0, even for NaN."""
  weights = weights.reshape(-1, *[1] * (gradient.ndim - 1))
  masked = (weights == 0) & ~jnp.isfinite(gradient)
  return jnp.where(masked, 0.0, gradient) * weights
