"""Mosaic TPU kernel: the row sums of KL in one reading of the logits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kdjax.fused._online_sums import SUMS, add_tile

ROWS, CLASSES, LANES = 32, 2048, 128


def kl_sums_tpu(
  p: Array, q: Array, scale: Array, *, interpret: bool = False
) -> tuple[Array, ...]:
  """Returns the seven sums of each row, `[rows]` each, as `SUMS` lists them.

  Args:
    p: logits `[rows, classes]` in float32 or half precision.
    q: logits of the same shape and kind.
    scale: temperatures `[rows]` in float32.
    interpret: True runs the kernel in JAX, on any device.
  """
  rows, classes = p.shape
  tile = pl.BlockSpec((ROWS, CLASSES), lambda i, j: (i, j))
  sums = pl.pallas_call(
    functools.partial(_kernel, classes=classes),
    out_shape=jax.ShapeDtypeStruct(
      (rows, LANES),
      jnp.float32,
      manual_axis_type=jax.typeof(p).manual_axis_type,
    ),
    grid=(pl.cdiv(rows, ROWS), pl.cdiv(classes, CLASSES)),
    in_specs=[pl.BlockSpec((ROWS, 1), lambda i, j: (i, 0)), tile, tile],
    out_specs=pl.BlockSpec((ROWS, LANES), lambda i, j: (i, 0)),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary")
    ),
    interpret=interpret,
  )(scale[:, None], p, q)
  return tuple(sums[:, i] for i in range(SUMS))


def _kernel(
  scale_ref: Any, p_ref: Any, q_ref: Any, sums_ref: Any, *, classes: int
) -> None:
  """Adds a tile to the sums, which stay in the output block."""
  tile = pl.program_id(1)
  lanes = jax.lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 1)

  @pl.when(tile == 0)
  def _() -> None:
    sums_ref[...] = jnp.where(lanes < 2, -jnp.inf, 0.0)

  old = sums_ref[...]
  columns = jax.lax.broadcasted_iota(jnp.int32, (ROWS, CLASSES), 1)
  inside = tile * CLASSES + columns < classes
  new = add_tile(
    [old[:, i : i + 1] for i in range(SUMS)],
    jnp.where(inside, p_ref[...].astype(jnp.float32), -jnp.inf),
    jnp.where(inside, q_ref[...].astype(jnp.float32), -jnp.inf),
    scale_ref[...],
    over=lambda reduce, x: reduce(x, -1, keepdims=True),
  )
  for i, value in enumerate(new):
    old = jnp.where(lanes == i, value, old)
  sums_ref[...] = old
