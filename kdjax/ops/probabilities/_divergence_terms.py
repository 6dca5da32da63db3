"""The terms of divergences and of their differentials."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ops.arrays._masked_rows import nonzero_divisor
from kdjax.ops.arrays._nan import at_least


class RowStatistics(NamedTuple):
  """Probabilities of two rows of logits and their exact differences.

  Attributes:
    p: the probabilities of the first row.
    q: the probabilities of the second row.
    difference: q - p.
    log_ratio: log(q / p), infinite where only one of them is 0.
    divergence: KL(p || q), one value a row.
  """

  p: Array
  q: Array
  difference: Array
  log_ratio: Array
  divergence: Array


class DivergenceTerms(NamedTuple):
  """A divergence and the terms of its differential.

  Attributes:
    value: the divergence, one value a row.
    terms: p f(q / p), one value a class.
    slopes: q f'(q / p), one value a class.
    slope: the sum of the slopes, one value a row.
  """

  value: Array
  terms: Array
  slopes: Array
  slope: Array


# (exp x - 1 - x) / x^2 for |x| < 0.5, interpolated at Chebyshev's points: the
# error is 3e-8, with two terms less than Taylor's series needs for it.
_EXPM1_SERIES = (
  0.5000000121607165,
  0.16666666801683505,
  0.04166579123001372,
  0.008333236133516664,
  0.0013982186045922163,
  0.0001994487444250126,
)


def kl_terms(statistics: RowStatistics) -> DivergenceTerms:
  """KL(p || q): f(t) = t - 1 - log t.

  Args:
    statistics: of two rows of logits.

  Returns:
    The divergence's terms.
  """
  p, _, difference, ratio, value = statistics
  terms = _remainder(p, ratio, difference)
  return DivergenceTerms(value, terms, difference, jnp.zeros_like(value))


def skew_terms(statistics: RowStatistics, skew: Array) -> DivergenceTerms:
  """KL(p || m), m = skew p + (1 - skew) q: f(t) = m - 1 - log m, p = 1.

  Args:
    statistics: of two rows of logits.
    skew: the weight of p in the mixture.

  Returns:
    The divergence's terms.
  """
  p, q, difference, _, _ = statistics
  keep = 1.0 - skew
  inside = (skew > 0) & (keep > 0)
  log_mixture, q_over_mixture = _mixture(statistics, jnp.where(inside, skew, 1))
  terms = _remainder(p, log_mixture, keep * difference)
  terms = jnp.where(p != 0, terms, keep * q)
  slopes = jnp.square(keep) * q_over_mixture * difference
  # For skew 0 and 1, the mixture is q and p.
  return jax.tree.map(
    lambda mixed, end: jnp.where(inside, mixed, jnp.where(skew == 0, end, 0.0)),
    DivergenceTerms(jnp.sum(terms, -1), terms, slopes, jnp.sum(slopes, -1)),
    kl_terms(statistics),
  )


def jensen_shannon_terms(
  statistics: RowStatistics, beta: Array
) -> DivergenceTerms:
  """Weighted KL to m = beta p + (1 - beta) q: f'(t) = (1 - beta) log(t / m).

  Args:
    statistics: of two rows of logits.
    beta: the weight of p.

  Returns:
    The divergence's terms.
  """
  _, q, difference, ratio, _ = statistics
  keep = 1.0 - beta
  inside = (beta > 0) & (keep > 0)
  inner = inner_jensen_shannon_terms(statistics, jnp.where(inside, beta, 0.5))
  forward = kl_terms(statistics)
  reverse_terms = _remainder(q, -ratio, -difference)
  reverse_slopes = q * jnp.where(q != 0, ratio, 0.0)
  reverse = DivergenceTerms(
    jnp.sum(reverse_terms, -1),
    reverse_terms,
    reverse_slopes,
    jnp.sum(reverse_slopes, -1),
  )
  return jax.tree.map(
    lambda middle, low, high: jnp.where(
      inside, middle, jnp.where(beta == 0, low, high)
    ),
    inner,
    forward,
    reverse,
  )


def inner_jensen_shannon_terms(
  statistics: RowStatistics, beta: Array
) -> DivergenceTerms:
  """The same for 0 < beta < 1.

  Args:
    statistics: of two rows of logits.
    beta: the weight of p.

  Returns:
    The divergence's terms.
  """
  p, q, difference, ratio, _ = statistics
  weight = beta
  log_mixture, _ = _mixture(statistics, weight)
  from_p = _remainder(p, log_mixture, (1 - weight) * difference)
  from_p = jnp.where(p != 0, from_p, (1 - weight) * q)
  finite = jnp.where((p != 0) & (q != 0), ratio, 0.0)
  log_mixture_over_q = jnp.where(
    p != 0, jnp.where(q != 0, log_mixture - finite, 0.0), jnp.log(1 - weight)
  )
  from_q = _remainder(q, log_mixture_over_q, -weight * difference)
  from_q = jnp.where(q != 0, from_q, weight * p)
  terms = weight * from_p + (1 - weight) * from_q
  slopes = -(1 - weight) * q * log_mixture_over_q
  return DivergenceTerms(jnp.sum(terms, -1), terms, slopes, jnp.sum(slopes, -1))


def half_jensen_shannon_terms(statistics: RowStatistics) -> DivergenceTerms:
  """The same for beta = 1/2, with one logarithm a class.

  With the contrast c = (q - p) / (q + p), m = (p + q) / 2 and r = log(q / p),
  log(q / m) = (r + log(1 - c^2)) / 2, and a term is
  m (c r + log(1 - c^2)) / 2.

  Args:
    statistics: of two rows of logits.

  Returns:
    The divergence's terms.
  """
  p, q, difference, ratio, _ = statistics
  total = p + q
  less, more = jnp.where(q < p, q, p), jnp.where(q < p, p, q)
  # A class that one of them lacks has an infinite ratio.
  ratio = jnp.where(less > 0, ratio, 0.0)
  near = (less > 0) & (jnp.abs(ratio) < 2.0)
  # Where c is near 1, less / more keeps the digits that 1 - c^2 loses:
  # log(1 - c^2) is 2 log 2 - |r| - 2 log(1 + less / more).
  x = jnp.where(near, difference, less) / jnp.where(
    near, total, nonzero_divisor(more)
  )
  logarithm = jnp.log1p(jnp.where(near, -x * x, x))
  rest = math.log(2.0) - logarithm
  terms = jnp.where(
    near,
    0.25 * total * (x * ratio + logarithm),
    0.5 * (total * rest - jnp.abs(ratio) * less),
  )
  slopes = (0.5 * q) * jnp.where(
    near, 0.5 * (ratio + logarithm), rest + jnp.where(ratio < 0, ratio, 0.0)
  )
  return DivergenceTerms(jnp.sum(terms, -1), terms, slopes, jnp.sum(slopes, -1))


def _mixture(statistics: RowStatistics, skew: Array) -> tuple[Array, Array]:
  """Returns log(m / p) and q / m of m = skew p + (1 - skew) q, 0 < skew."""
  p, ratio = statistics.p, statistics.log_ratio
  keep = 1.0 - skew
  # log(skew + keep exp r), written so that exp does not overflow.
  small = jnp.exp(-jnp.abs(ratio))
  mixed = jnp.where(ratio > 0, keep + skew * small, keep * small + skew)
  growth, _ = weighted_expm1(jnp.ones_like(ratio), ratio)
  return jnp.where(
    jnp.abs(ratio) < 0.5,
    jnp.log1p(keep * growth),
    at_least(jnp.where(p != 0, ratio, 0.0), 0.0) + jnp.log(mixed),
  ), jnp.where(ratio > 0, 1.0, small) / mixed


def _remainder(weight: Array, x: Array, expm1: Array) -> Array:
  """Returns weight (exp x - 1 - x), given expm1, weight (exp x - 1)."""
  _, series = weighted_expm1(weight, x)
  # A weight of 0 times an infinite ratio is 0, not NaN.
  product = weight * jnp.where(weight != 0, x, 0.0)
  return jnp.where(jnp.abs(x) < 0.5, series, expm1 - product)


def total_variation_terms(statistics: RowStatistics) -> DivergenceTerms:
  """Total variation: f(t) = |t - 1| / 2, with derivative 0 at t = 1.

  Args:
    statistics: of two rows of logits.

  Returns:
    The divergence's terms.
  """
  terms = 0.5 * jnp.abs(statistics.difference)
  slopes = 0.5 * statistics.q * jnp.sign(statistics.difference)
  return DivergenceTerms(jnp.sum(terms, -1), terms, slopes, jnp.sum(slopes, -1))


def weighted_expm1(weight: Array, x: Array) -> tuple[Array, Array]:
  """Returns weight (exp x - 1) and weight (exp x - 1 - x) for |x| < 0.5.

  The power series is cheaper than exp and exact near 0.

  Args:
    weight: any shape.
    x: the exponent; clipped to [-0.5, 0.5].

  Returns:
    Both products.
  """
  x = jnp.clip(x, -0.5, 0.5)
  if jnp.finfo(x.dtype).bits <= 32:
    coefficients = _EXPM1_SERIES
  else:
    coefficients = tuple(1.0 / math.factorial(n + 2) for n in range(15))
  series = jnp.full_like(x, coefficients[-1])
  for coefficient in reversed(coefficients[:-1]):
    series = series * x + coefficient
  linear = weight * x
  remainder = linear * x * series
  return linear + remainder, remainder
