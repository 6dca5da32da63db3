r"""The row sums of KL in one reading of the logits, for both kernels.

The maxima of a row are not known before its last class. If a tile of classes
raises them, the sums of the earlier classes are updated to the new maxima. The
update shifts the center of the gaps by `delta`, and scales u by `alpha` and v
by `beta = alpha e^-delta`. The sums Z of u, B of u g and R of v - u - u g
become

.. math::
  Z' = \alpha Z, \quad B' = \alpha (B - \delta Z), \quad
  R' = \beta R + (\beta - \alpha) B + Z (\beta - \alpha + \alpha \delta)

With `beta - alpha` computed from `delta`, each term of R' is of second order in
the gaps, and no large numbers cancel.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops

# p_max, q_max, p_total, q_total, the sums of u g and of v - u - u g, and the
# sum of u over the classes that q masks.
SUMS = 7


# The sums before the first class.
EMPTY = (-jnp.inf, -jnp.inf, 0.0, 0.0, 0.0, 0.0, 0.0)


def add_tile(
  sums: Sequence[Array],
  p: Array,
  q: Array,
  scale: Array,
  *,
  over: Callable[[Callable[..., Array], Array], Array],
  wide: Callable[[Array], Array] = lambda x: x,
) -> tuple[Array, ...]:
  """Returns the sums over the earlier classes and a tile.

  Args:
    sums: the sums over the earlier classes, one number a row each.
    p: a tile of logits in float32.
    q: a tile of logits in float32.
    scale: the rows' temperatures.
    over: reduces a tile to one number a row, with `jnp.max` or `jnp.sum`.
    wide: broadcasts one number a row to a tile, where JAX does not.
  """
  p_max, q_max = sums[:2]
  new_p = jnp.maximum(p_max, over(jnp.max, p))
  new_q = jnp.maximum(q_max, over(jnp.max, q))
  moved = move(sums, new_p, new_q, scale)
  terms = _terms(p, q, new_p, new_q, scale, wide)
  added = (a + over(jnp.sum, b) for a, b in zip(moved, terms, strict=True))
  return new_p, new_q, *added


def move(
  sums: Sequence[Array], new_p: Array, new_q: Array, scale: Array
) -> tuple[Array, ...]:
  """Returns all sums but the maxima, updated to new maxima."""
  p_max, q_max, p_total, q_total, gaps, remainder, lost = sums
  p_zero, q_zero = _finite(new_p), _finite(new_q)
  alpha, beta = (
    jnp.where(a == -jnp.inf, 0.0, jnp.exp((a - b) / scale))
    for a, b in ((p_max, p_zero), (q_max, q_zero))
  )
  started = (p_max != -jnp.inf) & (q_max != -jnp.inf)
  before, before_low = _difference(_finite(q_max), _finite(p_max))
  after, after_low = _difference(q_zero, p_zero)
  delta = ((after - before) + (after_low - before_low)) / scale
  delta = jnp.where(started, delta, 0.0)
  growth, curvature = ops.weighted_expm1(alpha, -delta)
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


def _terms(
  p: Array,
  q: Array,
  p_max: Array,
  q_max: Array,
  scale: Array,
  wide: Callable[[Array], Array],
) -> tuple[Array, ...]:
  """Returns the terms of the sums of `DenseCriterion.rows`."""
  p_max, q_max = _finite(p_max), _finite(q_max)
  center, center_low = map(wide, _difference(q_max, p_max))
  # One division an element would cost more than all other operations.
  inverse = wide(1.0 / scale)
  in_p, in_q = p != -jnp.inf, q != -jnp.inf
  both = in_p & in_q
  u = jnp.exp((p - wide(p_max)) * inverse)
  v = jnp.exp((q - wide(q_max)) * inverse)
  high, low = _difference(jnp.where(both, q, center), jnp.where(both, p, 0.0))
  gap = ((high - center) + (low - center_low)) * inverse
  gap = jnp.where(both, gap, 0.0)
  _, series = ops.weighted_expm1(u, gap)
  remainder = jnp.where(both & (jnp.abs(gap) < 0.5), series, v - u - u * gap)
  return u, v, u * gap, remainder, jnp.where(in_q, 0.0, u)


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
  """As `kdjax.ops.two_difference`; Mosaic GPU has no `stop_gradient`."""
  high = a - b
  back = high - a
  return high, (a - (high - back)) - (b + back)


def _finite(largest: Array) -> Array:
  return jnp.where(largest == -jnp.inf, 0.0, largest)
