r"""A Mosaic TPU kernel: the sums of KL's rows in one reading of the logits.

The maxima of a row are not known before its end. Where a tile of classes
raises them, the sums so far are moved to the new maxima. With the gaps' centre
moved by :math:`\delta`, u scaled by :math:`\alpha` and v by :math:`\beta =
\alpha e^{-\delta}`, the sums Z of u, B of u g and R of v - u - u g become

.. math::
  Z' = \alpha Z, \quad B' = \alpha (B - \delta Z), \quad
  R' = \beta R + (\beta - \alpha) B + Z (\beta - \alpha + \alpha \delta)

in which no large numbers cancel: each term is of second order in the gaps, if
:math:`\beta - \alpha` is computed from :math:`\delta`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kdjax.ops._divergences import near_zero
from kdjax.ops._divergences import two_difference

ROWS, CLASSES, LANES = 32, 2048, 128
# p_max, q_max, p_total, q_total, the sums of u g and of v - u - u g, and the
# mass of p that q lacks
SUMS = 7


def kl_sums_tpu(
  p: Array, q: Array, scale: Array, *, interpret: bool = False
) -> tuple[Array, ...]:
  """Returns the sums of each row, `[rows]` each, in the order above.

  Args:
    p: logits `[rows, classes]` in float32 or half precision.
    q: the same.
    scale: temperatures `[rows]` in float32.
    interpret: whether to run it in JAX, on any device.
  """
  rows, classes = p.shape
  tile = pl.BlockSpec((ROWS, CLASSES), lambda i, j: (i, j))
  sums = pl.pallas_call(
    functools.partial(_kernel, classes=classes),
    out_shape=jax.ShapeDtypeStruct((rows, LANES), jnp.float32),
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
  """Adds a tile to the sums, which stay in the output's block."""
  tile = pl.program_id(1)
  lanes = jax.lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 1)

  @pl.when(tile == 0)
  def _() -> None:
    sums_ref[...] = jnp.where(lanes < 2, -jnp.inf, 0.0)

  old = sums_ref[...]
  p_max, q_max, *sums = (old[:, i : i + 1] for i in range(SUMS))
  scale = scale_ref[...]
  columns = jax.lax.broadcasted_iota(jnp.int32, (ROWS, CLASSES), 1)
  inside = tile * CLASSES + columns < classes
  p = jnp.where(inside, p_ref[...].astype(jnp.float32), -jnp.inf)
  q = jnp.where(inside, q_ref[...].astype(jnp.float32), -jnp.inf)
  new_p = jnp.maximum(p_max, jnp.max(p, -1, keepdims=True))
  new_q = jnp.maximum(q_max, jnp.max(q, -1, keepdims=True))
  moved = _move(sums, (p_max, q_max), (new_p, new_q), scale)
  added = _sums(p, q, new_p, new_q, scale)
  new = (new_p, new_q, *(a + b for a, b in zip(moved, added, strict=True)))
  for i, value in enumerate(new):
    old = jnp.where(lanes == i, value, old)
  sums_ref[...] = old


def _sums(
  p: Array, q: Array, p_max: Array, q_max: Array, scale: Array
) -> tuple[Array, ...]:
  """Returns a tile's sums, as `DenseCriterion.rows` defines them."""
  in_p, in_q = p != -jnp.inf, q != -jnp.inf
  both = in_p & in_q
  p_max, q_max = _finite(p_max), _finite(q_max)
  u, v = jnp.exp((p - p_max) / scale), jnp.exp((q - q_max) / scale)
  center, center_low = two_difference(q_max, p_max)
  high, low = two_difference(
    jnp.where(both, q, center), jnp.where(both, p, 0.0)
  )
  gap = ((high - center) + (low - center_low)) / scale
  gap = jnp.where(both, gap, 0.0)
  _, series = near_zero(u, gap)
  remainder = jnp.where(both & (jnp.abs(gap) < 0.5), series, v - u - u * gap)
  terms = (u, v, u * gap, remainder, jnp.where(in_q, 0.0, u))
  return tuple(jnp.sum(x, -1, keepdims=True) for x in terms)


def _move(
  sums: list[Array],
  old: tuple[Array, Array],
  new: tuple[Array, Array],
  scale: Array,
) -> tuple[Array, ...]:
  """Returns the sums so far, as seen from the new maxima."""
  p_total, q_total, gaps, remainder, lost = sums
  alpha, beta = (
    jnp.where(a == -jnp.inf, 0.0, jnp.exp((a - _finite(b)) / scale))
    for a, b in zip(old, new, strict=True)
  )
  started = (old[0] != -jnp.inf) & (old[1] != -jnp.inf)
  before, before_low = two_difference(_finite(old[1]), _finite(old[0]))
  after, after_low = two_difference(_finite(new[1]), _finite(new[0]))
  delta = ((after - before) + (after_low - before_low)) / scale
  delta = jnp.where(started, delta, 0.0)
  growth, curvature = near_zero(alpha, -delta)
  near = jnp.abs(delta) < 0.5
  growth = jnp.where(near, growth, beta - alpha)
  curvature = jnp.where(near, curvature, beta - alpha + alpha * delta)
  return (
    alpha * p_total,
    beta * q_total,
    alpha * (gaps - delta * p_total),
    beta * remainder + growth * gaps + curvature * p_total,
    alpha * lost,
  )


def _finite(largest: Array) -> Array:
  return jnp.where(largest == -jnp.inf, 0.0, largest)
