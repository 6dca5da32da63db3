r"""Divergences between rows of logits.

Every divergence here is an f-divergence `sum_i p_i f(q_i / p_i)` with f
convex, f(1) = 0 and f'(1) = 0. All terms are nonnegative, so their sum does not
cancel. It remains to compute `r_i = log(q_i / p_i)` to full relative precision,
even if p and q are almost equal: `_row_statistics` does that. KL then keeps
five digits in float32 at high temperature; `sum p (log p - log q)` loses all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops.arrays._masked_rows import nonzero_divisor
from kdjax.ops.probabilities._divergence_terms import (
  DivergenceTerms,
  RowStatistics,
  half_jensen_shannon_terms,
  inner_jensen_shannon_terms,
  jensen_shannon_terms,
  kl_terms,
  skew_terms,
  total_variation_terms,
  weighted_expm1,
)
from kdjax.ops.probabilities._softmax import (
  compute_dtype,
  mask_classes,
  row_temperature,
)
from kdjax.ops.validation._checks import as_fraction
from kdjax.ops.validation._validation import validate


@validate
def kl_divergence(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
  r"""Kullback-Leibler divergence KL(teacher || student): of rows of logits.

  .. math::
    \mathrm{KL}(p \Vert q) = \sum_i p_i (\log p_i - \log q_i), \quad
    p = \mathrm{softmax}(z^T / T), \; q = \mathrm{softmax}(z^S / T)

  It is differentiable by both arguments and by the temperature, in forward and
  reverse mode. The losses in `kdjax.distillation` stop the teacher's gradient;
  this function does not.

  Args:
    student_logits: the logits of the approximating distribution q.
    teacher_logits: the logits of the reference distribution p.
    temperature: T > 0, a number or one value a row. May be traced. The result
      has no factor T^2.
    where: True for the classes to use, broadcastable to the logits.

  Returns:
    One value a row, in nats. It is 0 if all classes are masked, and infinite if
    only the student masks a class (logit -inf).

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> kl_divergence(logits, logits)
    Array([0.], dtype=float32)

  References:
    Kullback and Leibler, `On information and sufficiency
    <https://doi.org/10.1214/aoms/1177729694>`_, 1951.
  """
  return forward_kl(teacher_logits, student_logits, temperature, where)


def forward_kl(
  p_logits: Array,
  q_logits: Array,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns KL(p || q) for each row.

  Args:
    p_logits: `[*batch, classes]`.
    q_logits: `[*batch, classes]`.
    temperature: above 0, a scalar or one value a row.
    where: True for the classes to use, broadcastable to the logits.

  Returns:
    One value a row, `[*batch]`.
  """
  return _row_divergence(kl_terms, p_logits, q_logits, temperature, where)


def skew_divergence(
  p_logits: Array,
  q_logits: Array,
  skew: ArrayLike,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns KL(p || skew p + (1 - skew) q) for each row.

  Args:
    p_logits: `[*batch, classes]`.
    q_logits: `[*batch, classes]`.
    skew: the weight of p in the mixture, in [0, 1]; 0 gives KL(p || q).
    temperature: above 0, a scalar or one value a row.
    where: True for the classes to use, broadcastable to the logits.

  Returns:
    One value a row, `[*batch]`.
  """
  return _row_divergence(
    skew_terms, p_logits, q_logits, temperature, where, skew=skew
  )


def jensen_shannon(
  p_logits: Array,
  q_logits: Array,
  beta: ArrayLike,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns beta KL(p || m) + (1 - beta) KL(q || m) for each row.

  The mixture is m = beta p + (1 - beta) q. For beta = 0 and 1, where the
  formula is 0, the result is KL(p || q) and KL(q || p).

  Args:
    p_logits: `[*batch, classes]`.
    q_logits: `[*batch, classes]`.
    beta: the weight of p, in [0, 1].
    temperature: above 0, a scalar or one value a row.
    where: True for the classes to use, broadcastable to the logits.

  Returns:
    One value a row, `[*batch]`.
  """
  arrays = p_logits, q_logits, temperature, where
  if not isinstance(beta, int | float) or not 0 < beta < 1:
    return _row_divergence(jensen_shannon_terms, *arrays, beta=beta)
  # A known beta needs no choice between the formula and its ends.
  if beta == 0.5:
    return _row_divergence(half_jensen_shannon_terms, *arrays)
  return _row_divergence(inner_jensen_shannon_terms, *arrays, beta=beta)


def total_variation(
  p_logits: Array,
  q_logits: Array,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns half the L1 distance between two rows of probabilities.

  Args:
    p_logits: `[*batch, classes]`.
    q_logits: `[*batch, classes]`.
    temperature: above 0, a scalar or one value a row.
    where: True for the classes to use, broadcastable to the logits.

  Returns:
    One value a row, `[*batch]`.
  """
  return _row_divergence(
    total_variation_terms, p_logits, q_logits, temperature, where
  )


_Generator = Callable[..., DivergenceTerms]


def _row_divergence(
  generator: _Generator,
  p_logits: Array,
  q_logits: Array,
  temperature: ArrayLike,
  where: Array | None,
  **weights: ArrayLike,
) -> Array:
  """Converts the arguments to one dtype and evaluates a divergence."""
  dtype = jnp.promote_types(compute_dtype(p_logits), compute_dtype(q_logits))
  p_logits = mask_classes(p_logits, where).astype(dtype)
  q_logits = mask_classes(q_logits, where).astype(dtype)
  scale = row_temperature(temperature, p_logits, -1)
  return _f_divergence(
    generator,
    p_logits,
    q_logits,
    scale,
    tuple(as_fraction(name, x, dtype) for name, x in weights.items()),
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _f_divergence(
  generator: _Generator,
  p_logits: Array,
  q_logits: Array,
  scale: Array,
  parameters: tuple[Array, ...],
) -> Array:
  statistics = _row_statistics(
    p_logits, q_logits, scale, only_kl=generator is kl_terms
  )
  return generator(statistics, *parameters).value


@functools.partial(_f_divergence.defjvp, symbolic_zeros=True)
def _f_divergence_jvp(
  generator: _Generator, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array | SymbolicZero]:
  """Computes the differential from f' and the Jacobian of the softmax."""
  p_logits, q_logits, scale, parameters = primals
  p_dot, q_dot, scale_dot, parameters_dot = tangents
  is_kl = generator is kl_terms
  statistics = _row_statistics(p_logits, q_logits, scale, only_kl=is_kl)
  value, terms, slopes, slope = generator(statistics, *parameters)
  slope = slope[..., None]
  tangent = jnp.zeros_like(value)
  for logits, dot, gradient in (
    # The slopes of KL add up to 0, and its gradient needs no q.
    (
      q_logits,
      q_dot,
      lambda: slopes - (0.0 if is_kl else statistics.q * slope),
    ),
    (
      p_logits,
      p_dot,
      lambda: terms - slopes - statistics.p * (value[..., None] - slope),
    ),
  ):
    if not isinstance(dot, SymbolicZero):
      tangent += jnp.sum(gradient() * (dot / scale), -1)
    if not isinstance(scale_dot, SymbolicZero):
      shifted = (logits - _largest(logits)) / scale
      shifted = jnp.where(logits == -jnp.inf, 0.0, shifted)
      tangent -= jnp.sum(gradient() * shifted * (scale_dot / scale), -1)
  for i, dot in enumerate(parameters_dot):
    if not isinstance(dot, SymbolicZero):
      tangent += jax.jvp(
        lambda x, i=i: (
          generator(statistics, *parameters[:i], x, *parameters[i + 1 :]).value
        ),
        (parameters[i],),
        (dot,),
      )[1]
  return value, tangent


def _row_statistics(
  p_logits: Array, q_logits: Array, scale: Array, *, only_kl: bool = False
) -> RowStatistics:
  """Returns probabilities and their log-ratio to full relative precision.

  It passes over the rows three times: for maxima, for sums of p, for sums of q.

  Args:
    p_logits: `[*batch, classes]`.
    q_logits: `[*batch, classes]`.
    scale: the temperature.
    only_kl: whether KL(p || q) alone is computed from the statistics. It is
      infinite if p has a class that q lacks: the other digits of such a row do
      not matter, and one pass less finds it.

  Returns:
    The statistics of each row.
  """
  in_p, in_q = p_logits != -jnp.inf, q_logits != -jnp.inf
  p_max, q_max = _largest(p_logits), _largest(q_logits)
  # gap = (z_q - z_p) / T - E_p[...]. Subtract before the division and keep the
  # rounding error (Knuth's two-sum): rounding z / T would lose small gaps.
  center, center_low = two_difference(q_max, p_max)
  high, low = two_difference(_floored(q_logits), _floored(p_logits))
  gap = jnp.where(in_p & in_q, (high - center) + low, 0.0) / scale
  weight = jnp.exp(_exponent(p_logits, p_max, scale))
  total = _row_sum(weight)
  empty = total == 0
  total = nonzero_divisor(total)
  if only_kl:
    gap = jnp.where((weight > 0) & ~in_q, -jnp.inf, gap)
    mean = _row_sum(weight * gap) / total
    infinite = mean == -jnp.inf
    mean = jnp.where(infinite, 0.0, mean)
    perturbed = ~infinite
  else:
    outside = _row_sum(jnp.where(in_q, 0.0, weight))
    mean = _row_sum(weight * gap) / nonzero_divisor(total - outside)
    infinite = outside > 0
    perturbed = outside < 0.5 * total
  p = weight / total
  # Compute q relative to p; this is the largest exponent.
  largest = center_low / scale - mean - jnp.log(total)
  # If q is far from p or has other classes, compute q on its own.
  perturbed &= largest < 30.0
  # If p has no unmasked class, the divergence is 0.
  shift = jnp.where(empty, -jnp.inf, jnp.where(perturbed, largest, 0.0))
  inside, weight = (
    weight > 0,
    jnp.exp(_exponent(q_logits, q_max, scale) + shift),
  )
  # E_p[gap] = 0, so E_p[exp gap] = 1 + E_p[exp gap - 1 - gap], all terms >= 0.
  centered = gap - mean if only_kl else jnp.where(in_q, gap - mean, 0.0)
  near = inside & in_q & perturbed & (jnp.abs(centered) < 0.5)
  growth, remainder = weighted_expm1(p, centered)
  growth = jnp.where(near, growth, weight - p)
  remainder = jnp.where(near, remainder, weight - p - p * centered)
  excess = _row_sum(jnp.where(perturbed, remainder, weight))
  norm = nonzero_divisor(jnp.where(perturbed, 1.0 + excess, excess))
  excess = jnp.where(perturbed, excess, excess - 1.0)
  log_norm = jnp.where(
    perturbed,
    jnp.log1p(jnp.where(perturbed, excess, 0.0)),
    largest + jnp.log(norm),
  )
  # A distant class makes mean and log norm large: their sum loses digits.
  ratio = jnp.where(perturbed, centered, gap) - jnp.where(
    perturbed, log_norm, center_low / scale + jnp.log(norm) - jnp.log(total)
  )
  return RowStatistics(
    p,
    weight / norm,
    # exp(ratio) - 1 = (exp(gap) - norm) / norm, without rounding of 1.
    (growth - p * excess) / norm,
    jnp.where(
      in_p & in_q,
      ratio,
      jnp.where(in_q, jnp.inf, jnp.where(in_p, -jnp.inf, 0.0)),
    ),
    # E_p[-r] = log norm, since E_p[gap] = 0.
    jnp.where(infinite, jnp.inf, log_norm)[..., 0],
  )


def _floored(logits: Array) -> Array:
  """Returns the logits with a finite number for -inf, and NaN for NaN."""
  least = float(jnp.finfo(logits.dtype).min)
  return jnp.where(logits < least, least, logits)


def _exponent(logits: Array, largest: Array, scale: Array) -> Array:
  """Returns (logits - largest) / T, finite so that derivatives by T are."""
  shifted = logits - largest
  return jnp.where(shifted < -1e30, -1e30, shifted) / scale


def _row_sum(x: Array) -> Array:
  return jnp.sum(x, -1, keepdims=True)


def _largest(logits: Array) -> Array:
  """Returns the largest logit of each row, 0 where all are masked."""
  largest = jax.lax.stop_gradient(
    jnp.max(logits, -1, keepdims=True, initial=-jnp.inf)
  )
  return jnp.where(largest == -jnp.inf, 0.0, largest)


def two_difference(a: Array, b: Array) -> tuple[Array, Array]:
  """Returns a - b rounded, and its exact rounding error.

  Args:
    a: any shape.
    b: the same shape.

  Returns:
    The difference and its rounding error, the latter without gradient.
  """
  high = a - b
  back = high - a
  low = (a - (high - back)) - (b + back)
  return high, jax.lax.stop_gradient(low)
