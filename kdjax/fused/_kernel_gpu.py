"""Mosaic GPU kernel: the row sums of KL in one reading of the logits.

A block is one warpgroup. It reduces `ROWS` rows over a share of their classes,
`STEPS` tiles, which are copied to shared memory some steps before the
arithmetic. Several shares a row give every multiprocessor a block if rows are
few, and balance the work if rows are many. XLA combines the sums of the shares,
seven numbers for 4096 classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kdjax import ops
from kdjax.fused._online_sums import EMPTY, SUMS, add_tile, move

ROWS, CLASSES, STEPS = 64, 64, 64
# Bytes of tiles in flight to a block; two blocks fit a multiprocessor.
AHEAD = 2**16
# TILE is the layout of a tile in the registers of a warpgroup: four threads
# have one row, so a row sum needs two shuffles. ROW is the layout of one number
# a row.
TILE = plgpu.Layout.WGMMA
ROW = TILE.reduce(1)


def kl_sums_gpu(
  p: Array, q: Array, scale: Array, *, interpret: Any = None
) -> tuple[Array, ...]:
  """Returns the seven sums of each row, `[rows]` each, as `SUMS` lists them.

  Args:
    p: logits `[rows, classes]` in float32 or half precision; multiples of 8
      rows and 64 classes.
    q: logits of the same shape and kind.
    scale: temperatures `[rows]` in float32.
    interpret: the argument `interpret` of `plgpu.kernel`, which runs the kernel
      in JAX on any device.
  """
  rows, classes = p.shape
  blocks, shares = pl.cdiv(rows, ROWS), pl.cdiv(classes, CLASSES * STEPS)
  whole = blocks * ROWS
  run = plgpu.kernel(
    _kernel,
    out_type=jax.ShapeDtypeStruct((shares, SUMS, whole), jnp.float32),
    scratch_types=[
      plgpu.SMEM((ROWS,), jnp.float32),
      plgpu.SMEM((SUMS, ROWS), jnp.float32),
      plgpu.Barrier(),
    ],
    grid=(blocks, shares),
    grid_names=("block", "share"),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    interpret=interpret,
  )
  padded = jnp.pad(scale, (0, whole - rows), constant_values=1.0)
  with jax.enable_x64(False):  # the pipeline of JAX 0.10 needs int32
    sums = ops.vary_like(run(padded, p, q), p)
  parts = [sums[:, i, :rows] for i in range(SUMS)]
  p_max, q_max = (jnp.max(x, 0, keepdims=True) for x in parts[:2])
  totals = (jnp.sum(x, 0) for x in move(parts, p_max, q_max, scale[None]))
  return p_max[0], q_max[0], *totals


def _kernel(
  scale_ref: Any,
  p_ref: Any,
  q_ref: Any,
  sums_ref: Any,
  scale_tile: Any,
  sums_tile: Any,
  arrived: Any,
) -> None:
  """Sums one share of `ROWS` rows. Rows past the end read zeros."""
  block, share = jax.lax.axis_index("block"), jax.lax.axis_index("share")
  here = pl.ds(block * ROWS, ROWS)
  plgpu.copy_gmem_to_smem(scale_ref.at[here], scale_tile, arrived)
  plgpu.barrier_wait(arrived)
  scale = plgpu.layout_cast(scale_tile[...], ROW)

  def step(_: Any, p_tile: Any, q_tile: Any, sums: Any) -> tuple[Array, ...]:
    p, q = (plgpu.layout_cast(x[...], TILE) for x in (p_tile, q_tile))
    return add_tile(
      sums,
      p.astype(jnp.float32),
      q.astype(jnp.float32),
      scale,
      over=lambda reduce, x: reduce(x, 1),
      wide=lambda x: jax.lax.broadcast_in_dim(x, (ROWS, CLASSES), (0,)),
    )

  def spec(ref: Any) -> Any:
    # Swizzled lines of 128 bytes have no bank conflicts.
    line = 128 // ref.dtype.itemsize
    return plgpu.BlockSpec(
      (ROWS, CLASSES),
      lambda i: (block, share * STEPS + i),
      transforms=(
        plgpu.TilingTransform((8, line)),
        plgpu.SwizzleTransform(128),
      ),
    )

  size = ROWS * CLASSES * (p_ref.dtype.itemsize + q_ref.dtype.itemsize)
  empty = (jnp.full((ROWS,), x, jnp.float32) for x in EMPTY)
  sums = plgpu.emit_pipeline(
    step,
    grid=(jnp.minimum(STEPS, p_ref.shape[1] // CLASSES - share * STEPS),),
    in_specs=[spec(p_ref), spec(q_ref)],
    max_concurrent_steps=AHEAD // size,
    init_carry=tuple(plgpu.layout_cast(x, ROW) for x in empty),
  )(p_ref, q_ref)
  for i, x in enumerate(sums):
    sums_tile[i] = x
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(sums_tile, sums_ref.at[share, :, here])
  plgpu.wait_smem_to_gmem(0)
