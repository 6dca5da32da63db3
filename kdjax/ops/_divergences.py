r"""Divergences between rows of logits, on one core.

Every divergence here is an f-divergence :math:`\sum_i p_i f(q_i / p_i)` with f
convex, f(1) = 0 and f'(1) = 0. Each term is then nonnegative, so no sum
cancels; what remains is to know :math:`r_i = \log(q_i / p_i)` to full relative
precision even where p and q almost agree. That is what
:func:`_row_statistics` does, and why KL keeps five digits in float32 at high
temperature, where :math:`\sum p (\log p - \log q)` loses all of them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops._softmax import compute_dtype
from kdjax.ops._softmax import mask_classes
from kdjax.ops._softmax import row_temperature
from kdjax.ops._validation import check_range
from kdjax.ops._validation import validate


@validate
def kl_divergence(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
  where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch"]:
  r"""Kullback-Leibler divergence KL(teacher || student) of two rows of logits.

  .. math::
    \mathrm{KL}(p \Vert q) = \sum_i p_i (\log p_i - \log q_i), \quad
    p = \mathrm{softmax}(z^T / T), \; q = \mathrm{softmax}(z^S / T)

  Differentiable in both arguments and in the temperature, in forward and
  reverse mode; the losses in :mod:`kdjax.distillation` stop the teacher's
  gradient, this function does not.

  Args:
    student_logits: scores of the approximating distribution q.
    teacher_logits: scores of the reference distribution p.
    temperature: T > 0; a number, or one per row. May be traced. There is no
      T^2 factor here.
    where: which classes take part, broadcastable to the logits.

  Returns:
    One value a row, in nats; 0 for a row with every class masked, inf where
    the student excludes a class that the teacher allows.

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
  return skew_divergence(
    teacher_logits, student_logits, 0.0, temperature, where
  )


def skew_divergence(
  p_logits: Array,
  q_logits: Array,
  skew: ArrayLike,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns KL(p || skew p + (1 - skew) q) a row; skew = 0 is KL(p || q)."""
  check_range("skew", skew, 0.0, 1.0)
  return _row_divergence(
    _skew_terms, p_logits, q_logits, temperature, where, skew
  )


def total_variation(
  p_logits: Array,
  q_logits: Array,
  temperature: ArrayLike,
  where: Array | None = None,
) -> Array:
  """Returns half the L1 distance between two rows of probabilities."""
  return _row_divergence(
    _total_variation_terms, p_logits, q_logits, temperature, where
  )


class _RowStatistics(NamedTuple):
  """What a divergence needs to know of two rows of logits."""

  p: Array
  q: Array
  difference: Array  # q - p
  log_ratio: Array  # log(q / p), +-inf where one of them has no mass


# Maps the statistics and parameters to p f(q/p) and q f'(q/p), elementwise.
_Generator = Callable[..., tuple[Array, Array]]


def _row_divergence(
  generator: _Generator,
  p_logits: Array,
  q_logits: Array,
  temperature: ArrayLike,
  where: Array | None,
  *parameters: ArrayLike,
) -> Array:
  """Brings the arguments to one dtype and evaluates the core."""
  dtype = jnp.promote_types(compute_dtype(p_logits), compute_dtype(q_logits))
  p_logits = mask_classes(p_logits, where).astype(dtype)
  q_logits = mask_classes(q_logits, where).astype(dtype)
  scale = row_temperature(temperature, p_logits, -1)
  return _f_divergence(
    generator,
    p_logits,
    q_logits,
    scale,
    tuple(jnp.asarray(x, dtype) for x in parameters),
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _f_divergence(
  generator: _Generator,
  p_logits: Array,
  q_logits: Array,
  scale: Array,
  parameters: tuple[Array, ...],
) -> Array:
  terms, _ = generator(_row_statistics(p_logits, q_logits, scale), *parameters)
  return jnp.sum(terms, -1)


@functools.partial(_f_divergence.defjvp, symbolic_zeros=True)
def _f_divergence_jvp(
  generator: _Generator, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array | SymbolicZero]:
  """The closed-form differential, by f' and the softmax's Jacobian."""
  p_logits, q_logits, scale, parameters = primals
  p_dot, q_dot, scale_dot, parameters_dot = tangents
  statistics = _row_statistics(p_logits, q_logits, scale)
  terms, slopes = generator(statistics, *parameters)
  value = jnp.sum(terms, -1)
  slope = jnp.sum(slopes, -1, keepdims=True)
  tangent = jnp.zeros_like(value)
  for logits, dot, gradient in (
    (q_logits, q_dot, lambda: slopes - statistics.q * slope),
    (
      p_logits,
      p_dot,
      lambda: terms - slopes - statistics.p * (value[..., None] - slope),
    ),
  ):
    if not isinstance(dot, SymbolicZero):
      tangent += jnp.sum(gradient() * (dot / scale), -1)
    if not isinstance(scale_dot, SymbolicZero):
      shifted = _shifted(logits) / scale
      tangent -= jnp.sum(gradient() * shifted * (scale_dot / scale), -1)
  for i, dot in enumerate(parameters_dot):
    if not isinstance(dot, SymbolicZero):
      tangent += jax.jvp(
        lambda x, i=i: jnp.sum(
          generator(statistics, *parameters[:i], x, *parameters[i + 1 :])[0],
          -1,
        ),
        (parameters[i],),
        (dot,),
      )[1]
  return value, tangent


def _row_statistics(
  p_logits: Array, q_logits: Array, scale: Array
) -> _RowStatistics:
  """Returns probabilities and their log-ratio to full relative precision."""
  in_p, in_q = jnp.isfinite(p_logits), jnp.isfinite(q_logits)
  in_both = in_p & in_q
  log_p, p = _log_and_exp_softmax(p_logits, in_p, scale)
  log_q, q = _log_and_exp_softmax(q_logits, in_q, scale)
  # gap = (z_q - z_p) / T - E_p[...]: subtract first, with the rounding error
  # kept (Knuth's two-sum), since z / T rounds away what the gap lives on. The
  # likeliest class is the origin: exact where the gaps are close together.
  high, low = _two_difference(
    jnp.where(in_both, q_logits, 0.0), jnp.where(in_both, p_logits, 0.0)
  )
  weight = jnp.where(in_both, p, 0.0)
  likeliest = in_both & (p == jnp.max(p, -1, keepdims=True))
  center = jax.lax.stop_gradient(
    jnp.max(high, -1, keepdims=True, where=likeliest, initial=-jnp.inf)
  )
  center = jnp.where(jnp.isfinite(center), center, 0.0)
  gap = jnp.where(in_both, (high - center) + low, 0.0) / scale
  total = jnp.sum(weight, -1, keepdims=True)
  mean = jnp.sum(weight * gap, -1, keepdims=True)
  gap = jnp.where(in_both, gap - mean / jnp.where(total > 0, total, 1.0), 0.0)
  # E_p[gap] = 0, so E_p[exp gap] = 1 + E_p[exp gap - 1 - gap]: no cancelling.
  excess = jnp.sum(
    _weighted_exponential_remainder(
      weight, gap, jnp.exp(jnp.minimum(log_p + gap, 60.0)) - weight
    ),
    -1,
    keepdims=True,
    where=in_both,
  )
  same_support = jnp.all(in_p == in_q, -1, keepdims=True)
  precise = same_support & (jnp.max(log_p + gap, -1, keepdims=True) < 30.0)
  log_ratio = jnp.where(
    precise,
    gap - jnp.log1p(excess),
    jnp.where(in_both, log_q, 0.0) - jnp.where(in_both, log_p, 0.0),
  )
  small = jnp.where(jnp.abs(log_ratio) < 0.5, log_ratio, 0.0)
  difference = jnp.where(jnp.abs(log_ratio) < 0.5, p * jnp.expm1(small), q - p)
  return _RowStatistics(
    p,
    q,
    jnp.where(in_both, difference, q - p),
    jnp.where(
      in_both, log_ratio, jnp.where(in_q, jnp.inf, -jnp.inf) * (in_p != in_q)
    ),
  )


def _skew_terms(statistics: _RowStatistics, skew: Array) -> tuple[Array, Array]:
  """KL(p || m), m = skew p + (1 - skew) q; see the module's docstring."""
  p, q, difference, ratio = statistics
  keep = 1.0 - skew
  ratio = jnp.where(p > 0, ratio, 0.0)
  # log(m / p), written so that neither exp overflows nor 1 + tiny rounds.
  near = jnp.abs(ratio) < 0.5
  near_ratio = jnp.where(near, ratio, 0.0)
  up, down = jnp.maximum(ratio, 0.0), jnp.minimum(ratio, 0.0)
  # At skew 0 and 1 the mixture is q and p, even where exp underflows.
  mixed = keep * jnp.exp(down) + skew * jnp.exp(-up)
  inside = (skew > 0) & (keep > 0)
  log_mixture = jnp.where(
    near,
    jnp.log1p(keep * jnp.expm1(near_ratio)),
    jnp.where(
      inside,
      up + jnp.log(jnp.where(inside, mixed, 1.0)),
      jnp.where(keep > 0, ratio, 0.0),
    ),
  )
  terms = _weighted_exponential_remainder(p, log_mixture, keep * difference)
  terms = jnp.where(p > 0, terms, keep * q)
  q_over_mixture = 1.0 / (
    keep + skew * jnp.exp(-jnp.clip(statistics.log_ratio, -60.0, 60.0))
  )
  return terms, jnp.square(keep) * q_over_mixture * difference


def _total_variation_terms(
  statistics: _RowStatistics,
) -> tuple[Array, Array]:
  """Total variation: f(t) = |t - 1| / 2, slope 0 at the kink."""
  _, q, difference, _ = statistics
  return 0.5 * jnp.abs(difference), 0.5 * q * jnp.sign(difference)


def _weighted_exponential_remainder(
  weight: Array, x: Array, weighted_expm1: Array
) -> Array:
  """Returns weight (exp(x) - 1 - x), by its series where x is small."""
  terms = 8 if jnp.finfo(x.dtype).bits <= 32 else 15
  small = jnp.where(jnp.abs(x) < 0.5, x, 0.0)
  series = jnp.zeros_like(x)
  for n in reversed(range(terms)):
    series = series * small + 1.0 / math.factorial(n + 2)
  # weight = 0 with x = inf is a class without mass: its product is 0.
  product = jnp.where(weight > 0, weight * jnp.where(weight > 0, x, 0.0), 0.0)
  return jnp.where(
    jnp.abs(x) < 0.5,
    weight * jnp.square(small) * series,
    weighted_expm1 - product,
  )


def _log_and_exp_softmax(
  logits: Array, support: Array, scale: Array
) -> tuple[Array, Array]:
  """Returns log-probabilities (finite everywhere) and probabilities."""
  shifted = _shifted(logits) / scale
  total = jnp.sum(jnp.exp(shifted), -1, keepdims=True, where=support)
  log_probabilities = shifted - jnp.log(jnp.where(total > 0, total, 1.0))
  return log_probabilities, jnp.where(support, jnp.exp(log_probabilities), 0.0)


def _shifted(logits: Array) -> Array:
  """Returns the logits less their largest, 0 where masked."""
  support = jnp.isfinite(logits)
  largest = jax.lax.stop_gradient(
    jnp.max(logits, -1, keepdims=True, where=support, initial=-jnp.inf)
  )
  return jnp.where(support, logits - largest, 0.0)


def _two_difference(a: Array, b: Array) -> tuple[Array, Array]:
  """Returns a - b rounded, and the rounding error exactly."""
  high = a - b
  back = high - a
  low = (a - (high - back)) - (b + back)
  return high, jax.lax.stop_gradient(low)
