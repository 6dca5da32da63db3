r"""Row divergences in two steps: statistics of a row, then its gradient.

The first step reads both rows twice (for their maxima, then for all sums) and,
for a mixture or the total variation, a third time. It returns a few numbers a
row. The second step computes the gradient from these numbers element by
element, without a sum; it may run much later, in another chunk, or beside a
matrix product.

KL needs no third reading. Let `u` and `v` be the unnormalized rows p and q, and
`g_i = log(v_i / u_i)`. The KL divergence is

.. math:: \log(1 + a) - b, \quad a = b + \rho, \quad
          b = E_p[g], \quad \rho = E_p[e^g - 1 - g] \geq 0

and `rho - (a - log(1 + a))`, with a series for each term near 0, keeps the
digits that the sum of `p (log p - log q)` loses. Where the gap at p's largest
class is far from all other gaps, a relative error of 1 / max p roundings
remains; `kdjax.ops.kl_divergence`, with one more reading, does not have this
error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.fused._kernel_tpu import kl_sums_tpu


@ops.exportable
class Divergence(NamedTuple):
  r"""A row divergence by name, with its share of the mixture.

  With P the teacher's softened softmax and Q the student's:

  =================== ======================================================
  `forward_kl`      KL(P || Q)
  `reverse_kl`      KL(Q || P)
  `jsd`             beta KL(P || M) + (1 - beta) KL(Q || M) with
                      M = beta P + (1 - beta) Q; at beta = 0 and 1 the
                      forward and the reverse KL
  `skew`            KL(P || share P + (1 - share) Q)
  `skew_reverse`    KL(Q || (1 - share) P + share Q)
  `total_variation` sum of |P - Q| / 2
  =================== ======================================================

  Attributes:
    name: one of the above.
    share: beta of `jsd`, by default 0.5; lambda of `skew` and `skew_reverse`,
      by default 0.1; None for the other divergences. It may be traced and
      receives no gradient.

  Examples:
    >>> Divergence("jsd", 0.1)
    Divergence(name='jsd', share=0.1)

  References:
    Agarwal et al., `On-policy distillation of language models
    <https://arxiv.org/abs/2306.13649>`_, 2024, and Ko et al., `DistiLLM
    <https://arxiv.org/abs/2402.03898>`_, 2024.
  """

  name: str
  share: ArrayLike | None = None


class Kind(NamedTuple):
  """The formula of a divergence, and the default of its `share`."""

  terms: Callable[..., ops.DivergenceTerms]
  teacher_is_p: bool = True
  share: float | None = None


KINDS = {
  "forward_kl": Kind(ops.kl_terms),
  "reverse_kl": Kind(ops.kl_terms, teacher_is_p=False),
  "jsd": Kind(ops.jensen_shannon_terms, share=0.5),
  "skew": Kind(ops.skew_terms, share=0.1),
  "skew_reverse": Kind(ops.skew_terms, teacher_is_p=False, share=0.1),
  "total_variation": Kind(ops.total_variation_terms),
}


def as_divergence(
  divergence: str | Divergence, dtype: Any
) -> tuple[str, tuple[Array, ...]]:
  """Returns the name of a divergence and its parameters, none or one."""
  if isinstance(divergence, str):
    divergence = Divergence(divergence)
  if not isinstance(divergence, Divergence):
    raise TypeError(
      f"divergence is {divergence!r}; expected a Divergence, or one of "
      f"{tuple(KINDS)}."
    )
  ops.check_choice("divergence", divergence.name, tuple(KINDS))
  default = KINDS[divergence.name].share
  if default is None:
    if divergence.share is not None:
      raise ValueError(
        f"divergence is {divergence}; expected share None, since "
        f"{divergence.name} has no share."
      )
    return divergence.name, ()
  share = default if divergence.share is None else divergence.share
  share = ops.as_fraction("share", share, dtype)
  return divergence.name, (jax.lax.stop_gradient(share),)


class Rows(NamedTuple):
  """Statistics that the gradient of a row needs, one number a row each."""

  value: Array
  slope: Array
  p_max: Array
  q_max: Array
  p_total: Array
  q_total: Array
  log_norm: Array
  near: Array


class DenseCriterion(NamedTuple):
  """A divergence between rows of logits; hashable, for a static argument.

  Attributes:
    name: the name of the divergence.
    axis_name: the mapped axis over which the classes are sharded.
    kernel: the kernel that computes the sums of a KL, on its platform; or None.
  """

  name: str
  axis_name: str | None = None
  kernel: str | None = None

  @property
  def outputs(self) -> tuple[str, ...]:
    """The fields of the rows that are returned."""
    return ("value",)

  def rows(
    self,
    student: Array,
    teacher: Array,
    scale: Array,
    shares: tuple[Array, ...],
  ) -> Rows:
    """Returns the statistics of each row.

    Args:
      student: logits `[rows, classes]`. The computation has the dtype of
        `scale`.
      teacher: logits `[rows, classes]`.
      scale: temperatures, `[rows]`.
      shares: the parameters of the divergence.
    """
    kind = KINDS[self.name]
    p, q = (teacher, student) if kind.teacher_is_p else (student, teacher)
    if self.kernel:
      # A kernel's operands must vary over the same axes of a mesh.
      p, q, scale = (ops.vary_like(x, p, q, scale) for x in (p, q, scale))
      sums = jax.lax.platform_dependent(
        p, q, scale, default=self._sums, **_kernel(self.kernel)
      )
    else:
      sums = self._sums(p, q, scale)
    p_max, q_max, p_total, q_total, gaps, remainder, lost = sums
    # A row p without classes has divergence 0. The largest of NaN alone may be
    # -inf too, but their sum is NaN.
    alive = (p_max != -jnp.inf) | jnp.isnan(p_total)
    p_max = jnp.where(alive, p_max, 0.0)
    q_max = jnp.where(q_max == -jnp.inf, 0.0, q_max)
    mean = gaps / ops.nonzero_divisor(p_total)
    remainder = remainder / ops.nonzero_divisor(p_total)
    growth = mean + remainder
    near = (jnp.abs(growth) < 0.5) & (lost == 0)
    log_norm = jnp.where(
      near,
      jnp.log1p(jnp.where(near, growth, 0.0)),
      jnp.log(ops.nonzero_divisor(q_total))
      - jnp.log(ops.nonzero_divisor(p_total)),
    )
    divergence = jnp.where(
      near, remainder - _minus_log1p(growth), log_norm - mean
    )
    divergence = jnp.where(lost > 0, jnp.inf, ops.at_least(divergence, 0.0))
    divergence = jnp.where(alive, divergence, 0.0)
    rows = Rows(
      divergence,
      jnp.zeros_like(divergence),
      p_max,
      q_max,
      p_total,
      q_total,
      log_norm,
      near,
    )
    if kind.terms is ops.kl_terms:
      return rows
    elements = _elements(p, q, p_max, q_max, scale)
    terms = kind.terms(_statistics(elements, rows), *shares)
    return rows._replace(
      value=self._sum(terms.terms), slope=self._sum(terms.slopes)
    )

  def gradients(
    self,
    student: Array,
    teacher: Array,
    scale: Array,
    shares: tuple[Array, ...],
    rows: Rows,
  ) -> tuple[Array, Array]:
    """Returns the gradients of the values by student and teacher logits."""
    kind = KINDS[self.name]
    p, q = (teacher, student) if kind.teacher_is_p else (student, teacher)
    elements = _elements(p, q, rows.p_max, rows.q_max, scale)
    statistics = _statistics(elements, rows)
    terms = kind.terms(statistics, *shares)
    value, slope = rows.value[:, None], rows.slope[:, None]
    by_q = terms.slopes - statistics.q * slope
    by_p = terms.terms - terms.slopes - statistics.p * (value - slope)
    by_p, by_q = by_p / scale[:, None], by_q / scale[:, None]
    return (by_q, by_p) if kind.teacher_is_p else (by_p, by_q)

  def _sums(self, p: Array, q: Array, scale: Array) -> tuple[Array, ...]:
    """Returns the maxima, totals and gap sums that KL needs."""
    p_max, q_max = (self._max(x.astype(scale.dtype)) for x in (p, q))
    elements = _elements(
      p,
      q,
      jnp.where(p_max == -jnp.inf, 0.0, p_max),
      jnp.where(q_max == -jnp.inf, 0.0, q_max),
      scale,
    )
    u, v, gap = elements.u, elements.v, elements.gap
    close = elements.in_p & elements.in_q & (jnp.abs(gap) < 0.5)
    _, series = ops.weighted_expm1(u, gap)
    remainder = jnp.where(close, series, v - u - u * gap)
    lost = jnp.where(elements.in_q, 0.0, u)
    sums = (self._sum(x) for x in (u, v, u * gap, remainder, lost))
    return p_max, q_max, *sums

  def _max(self, logits: Array) -> Array:
    largest = jnp.max(logits, -1)
    if self.axis_name is None:
      return largest
    return jax.lax.pmax(largest, self.axis_name)

  def _sum(self, x: Array) -> Array:
    total = jnp.sum(x, -1)
    if self.axis_name is None:
      return total
    return jax.lax.psum(total, self.axis_name)


def _kernel(name: str) -> dict[str, Callable[..., tuple[Array, ...]]]:
  """Returns the function of a kernel by its platform."""
  if name == "mosaic_tpu":
    return {"tpu": kl_sums_tpu}
  # Imported on demand: Mosaic GPU takes a quarter of the time of `import jax`.
  from kdjax.fused._kernel_gpu import kl_sums_gpu

  return {"cuda": kl_sums_gpu}


class _Elements(NamedTuple):
  """Values of each class, given the maxima of its rows."""

  in_p: Array
  in_q: Array
  p_exponent: Array
  q_exponent: Array
  u: Array  # exp of the exponents: unnormalized p
  v: Array
  gap: Array  # log(v / u), to full relative precision; 0 where one is masked


def _elements(
  p: Array, q: Array, p_max: Array, q_max: Array, scale: Array
) -> _Elements:
  p, q = p.astype(scale.dtype), q.astype(scale.dtype)
  p_max, q_max, scale = p_max[:, None], q_max[:, None], scale[:, None]
  in_p = p != -jnp.inf  # NaN is not masked: it must reach the caller
  in_q = q != -jnp.inf
  both = in_p & in_q
  p_exponent, q_exponent = (p - p_max) / scale, (q - q_max) / scale
  # Subtract before dividing by T and keep the rounding errors: rounding z / T
  # loses the digits of the gap.
  center, center_low = ops.two_difference(q_max, p_max)
  high, low = ops.two_difference(
    jnp.where(both, q, center), jnp.where(both, p, 0.0)
  )
  gap = ((high - center) + (low - center_low)) / scale
  return _Elements(
    in_p,
    in_q,
    p_exponent,
    q_exponent,
    jnp.exp(p_exponent),
    jnp.exp(q_exponent),
    jnp.where(both, gap, 0.0),
  )


def _statistics(elements: _Elements, rows: Rows) -> ops.RowStatistics:
  """Returns the normalized rows and their log-ratio."""
  in_p, in_q, p_exponent, q_exponent, u, v, gap = elements
  in_q &= rows.p_total[:, None] != 0
  p_total, q_total = (
    ops.nonzero_divisor(rows.p_total),
    ops.nonzero_divisor(rows.q_total),
  )
  both = in_p & in_q
  p = u / p_total[:, None]
  q = jnp.where(in_q, v, 0.0) / q_total[:, None]
  log_norm, near = rows.log_norm[:, None], rows.near[:, None]
  # Far from each other, gap and log norm are large, and their difference has
  # few digits.
  far = (q_exponent - jnp.log(q_total)[:, None]) - (
    p_exponent - jnp.log(p_total)[:, None]
  )
  ratio = jnp.where(near, gap - log_norm, jnp.where(both, far, 0.0))
  ratio = jnp.where(both, ratio, 0.0)
  difference, _ = ops.weighted_expm1(p, ratio)
  return ops.RowStatistics(
    p,
    q,
    jnp.where(both & near & (jnp.abs(ratio) < 0.5), difference, q - p),
    jnp.where(
      both, ratio, jnp.where(in_q, jnp.inf, jnp.where(in_p, -jnp.inf, 0.0))
    ),
    rows.value,
  )


def _minus_log1p(x: Array) -> Array:
  """Returns x - log(1 + x) for |x| < 0.5, by its series near 0."""
  x = jnp.clip(x, -0.5, 0.5)
  small = jnp.clip(x, -0.1, 0.1)
  terms = 8 if jnp.finfo(x.dtype).bits <= 32 else 17
  series = jnp.zeros_like(small)
  for n in reversed(range(terms)):
    series = 1.0 / (n + 2) - small * series
  return jnp.where(
    jnp.abs(x) < 0.1, jnp.square(small) * series, x - jnp.log1p(x)
  )
