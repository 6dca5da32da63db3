"""Negative transfer: paired comparisons with the source-only model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops

# Scores of the runs of one method, or of several methods in rows.
_Scores = ArrayLike | Sequence[float] | Sequence[Sequence[float]]


class TransferGain(NamedTuple):
  """A gain over the source-only model, with its interval.

  Attributes:
    mean: `[*methods]`, the mean of adapted minus source-only.
    low: `[*methods]`, the lower end of the interval.
    high: `[*methods]`, the upper end of the interval.
    p_value: `[*methods]`, two-sided, of the hypothesis that the mean gain is 0.
    gap_closed: `[*methods]`, the mean gain as a share of target-only minus
      source-only; None without `target_only`.
  """

  mean: Float[Array, " *methods"]
  low: Float[Array, " *methods"]
  high: Float[Array, " *methods"]
  p_value: Float[Array, " *methods"]
  gap_closed: Float[Array, " *methods"] | None


class NegativeTransferTest(NamedTuple):
  """Verdict on each method.

  Attributes:
    gain: the `TransferGain` of each method.
    p_value: `[*methods]`, adjusted for the number of methods by Holm's method.
    verdict: "helped", "hurt" or "unclear": a string for one method, a dict for
      a dict of methods, a list for a list or an array.
    summary: the verdicts as sentences, one a line.
  """

  gain: TransferGain
  p_value: Float[Array, " *methods"]
  verdict: str | list[str] | dict[str, str]
  summary: str


@ops.validate
def transfer_gain(
  adapted: Float[Array, "*methods runs"],
  source_only: Float[Array, " runs"],
  target_only: Float[Array, " runs"] | None = None,
  *,
  confidence: ArrayLike = 0.95,
) -> TransferGain:
  r"""Transfer gain: adapted minus source-only, paired, with a t interval.

  .. math::
    \bar d \pm t_{n-1,\,(1 + c)/2}\; \frac{s_d}{\sqrt n}, \qquad
    d_i = a_i - b_i

  Runs are paired: run i of both models has the same seed, data and split, so
  common effects of the seed cancel.

  Args:
    adapted: `[*methods, runs]`, scores on the target, higher is better
      (negate errors).
    source_only: `[runs]`, scores of the model without adaptation, with the same
      seeds.
    target_only: `[runs]`, scores of the model trained on target labels, if
      known.
    confidence: c in [0, 1]. May be traced.

  Returns:
    A `TransferGain`. The interval of one run is infinite. The interval of runs
    with equal gains has length 0.

  Raises:
    ValueError: if the numbers of runs differ, or there is no run.
    TypeError: if the scores are not floating-point.

  Examples:
    >>> gain = transfer_gain(
    ...   jnp.array([0.7, 0.8, 0.9]),
    ...   jnp.array([0.6, 0.6, 0.6]),
    ...   jnp.array([1.0, 1.0, 1.0]),
    ... )
    >>> print(f"{gain.mean:.2f} in [{gain.low:.2f}, {gain.high:.2f}]")
    0.20 in [-0.05, 0.45]
    >>> print(f"{gain.gap_closed:.2f}")
    0.50

  References:
    Student, `The probable error of a mean
    <https://doi.org/10.1093/biomet/6.1.1>`_, 1908.
  """
  runs = adapted.shape[-1]
  if not runs:
    raise ValueError(
      f"transfer_gain: adapted has shape {adapted.shape}; expected at least "
      "one run."
    )
  dtype = ops.compute_dtype(adapted)
  adapted, source_only = adapted.astype(dtype), source_only.astype(dtype)
  level = ops.as_fraction("confidence", confidence, dtype)
  lead = (1,) * (adapted.ndim - 1)
  baseline = source_only.reshape(*lead, runs)
  differences = adapted - baseline
  mean = jnp.mean(differences, -1)
  closed = None
  if target_only is not None:
    gap = jnp.mean(target_only.astype(dtype) - source_only)
    closed = jnp.where(gap != 0, mean / jnp.where(gap != 0, gap, 1.0), jnp.nan)
  if runs == 1:
    low, high = jnp.full_like(mean, -jnp.inf), jnp.full_like(mean, jnp.inf)
    return TransferGain(mean, low, high, jnp.ones_like(mean), closed)
  centered = differences - mean[..., None]
  error = jnp.sqrt(jnp.sum(jnp.square(centered), -1) / (runs * (runs - 1)))
  # Rounding of the scores makes equal gains differ.
  scale = jnp.max(jnp.abs(adapted), -1) + jnp.max(jnp.abs(source_only))
  error = jnp.where(error > jnp.finfo(dtype).eps * scale, error, 0.0)
  degrees = jnp.asarray(runs - 1, dtype)
  margin = _critical(level, degrees) * error
  exact = error == 0
  statistic = jnp.abs(mean) / jnp.where(exact, 1.0, error)
  p_value = jnp.where(
    exact,
    jnp.where(jnp.abs(mean) > jnp.finfo(dtype).eps * scale, 0.0, 1.0),
    _two_sided(statistic, degrees),
  )
  return TransferGain(mean, mean - margin, mean + margin, p_value, closed)


def negative_transfer_test(
  adapted: _Scores | Mapping[str, _Scores],
  source_only: _Scores,
  target_only: _Scores | None = None,
  *,
  significance: float = 0.05,
) -> NegativeTransferTest:
  r"""Negative transfer test: helped, hurt or unclear.

  A paired t test of each method against the source-only model. For several
  methods the p-values are adjusted by Holm's method,

  .. math::
    \tilde p_{(k)} = \max_{j \le k} \min\bigl(1, (m - j + 1)\, p_{(j)}\bigr),

  so the probability of a wrong verdict among all methods is below
  `significance`. The intervals of `gain` are not adjusted: they have confidence
  1 - significance for each method, and the interval of an "unclear" method may
  exclude 0.

  Args:
    adapted: scores on the target, higher is better (negate errors): `[runs]`
      for one method, `[methods, runs]`, or a dict from names to `[runs]`.
    source_only: `[runs]`, scores of the model without adaptation, with the same
      seeds.
    target_only: `[runs]`, scores of the model trained on target labels, if
      known.
    significance: the level of the test, a number in (0, 1).

  Returns:
    A `NegativeTransferTest`. It holds strings, so call the function outside of
    `jax.jit`.

  Raises:
    ValueError: if the numbers of runs differ, there is no method, or the level
      is out of range.

  "unclear" does not mean that the gain is 0. The interval shows the largest
  loss that the runs do not exclude. Three runs are seldom enough for another
  verdict.

  Examples:
    >>> source = [0.60, 0.61, 0.59, 0.62, 0.60]
    >>> test = negative_transfer_test(
    ...   {
    ...     "coral": [0.70, 0.72, 0.69, 0.73, 0.71],
    ...     "dann": [0.50, 0.55, 0.48, 0.51, 0.50],
    ...     "mmd": [0.60, 0.63, 0.57, 0.64, 0.59],
    ...   },
    ...   source,
    ... )
    >>> print(test.verdict)
    {'coral': 'helped', 'dann': 'hurt', 'mmd': 'unclear'}
    >>> print(test.summary.splitlines()[1])
    dann hurt: -0.096 [-0.122, -0.070] against source-only, p = 0.00098.

  References:
    Holm, `A simple sequentially rejective multiple test procedure
    <https://www.jstor.org/stable/4615733>`_, 1979; Zhang et al., `A survey on
    negative transfer <https://arxiv.org/abs/2009.00909>`_, 2022.
  """
  ops.check_range("significance", significance, 0.0, 1.0)
  if np.ndim(significance):
    raise ValueError(f"significance is {significance}; expected one number.")
  names = list(adapted) if isinstance(adapted, Mapping) else None
  if isinstance(adapted, Mapping):
    if not adapted:
      raise ValueError("adapted is empty; expected one or more methods.")
    for name in adapted:
      if np.shape(adapted[name]) != np.shape(source_only):
        raise ValueError(
          f"adapted[{name!r}] has shape {np.shape(adapted[name])}; expected "
          f"{np.shape(source_only)}, as in source_only."
        )
    scores = _floats([adapted[name] for name in adapted])
  else:
    scores = _floats(adapted)
  if scores.ndim > 2 or not scores.size:
    raise ValueError(
      f"adapted has shape {scores.shape}; expected [runs] or [methods, runs]."
    )
  gain = transfer_gain(
    scores,
    _floats(source_only),
    None if target_only is None else _floats(target_only),
    confidence=1 - significance,
  )
  host = jax.tree.map(np.atleast_1d, jax.device_get(gain))
  adjusted = _holm(host.p_value)
  words = [
    "unclear" if not p < significance else "helped" if mean > 0 else "hurt"
    for p, mean in zip(adjusted, host.mean, strict=True)
  ]
  several = names or [f"method {i}" for i in range(len(words))]
  lines = [
    f"{name} {_PHRASES[word]}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] against "
    f"source-only, p = {p:.2g}."
    for name, word, mean, low, high, p in zip(
      several if scores.ndim == 2 else ["Adaptation"],
      words,
      host.mean,
      host.low,
      host.high,
      adjusted,
      strict=True,
    )
  ]
  verdict: str | list[str] | dict[str, str] = words
  if names is not None:
    verdict = dict(zip(names, words, strict=True))
  elif scores.ndim == 1:
    verdict = words[0]
  p_value = jnp.asarray(adjusted, gain.p_value.dtype)
  return NegativeTransferTest(
    gain, p_value.reshape(gain.p_value.shape), verdict, "\n".join(lines)
  )


_PHRASES = {"helped": "helped", "hurt": "hurt", "unclear": "is unclear"}


def _floats(x: Any) -> Array:
  if x is None or np.asarray(x).dtype.kind not in "biuf":
    raise TypeError(f"scores are {x!r}; expected numbers.")
  array = jnp.asarray(x)
  if jnp.issubdtype(array.dtype, jnp.floating):
    return array
  return array.astype(float)


def _holm(p_values: np.ndarray) -> np.ndarray:
  """Returns Holm's adjusted p-values."""
  order = np.argsort(p_values, kind="stable")
  factors = len(p_values) - np.arange(len(p_values))
  steps = np.minimum(factors * p_values.astype(np.float64)[order], 1.0)
  adjusted = np.empty(len(p_values))
  adjusted[order] = np.maximum.accumulate(steps)
  return adjusted


def _two_sided(statistic: Array, degrees: Array) -> Array:
  """Returns P(|t| >= statistic)."""
  x = degrees / (degrees + jnp.square(statistic))
  half = jnp.full_like(x, 0.5)
  return betainc(degrees / 2 * jnp.ones_like(x), half, x)


def _critical(confidence: Array, degrees: Array) -> Array:
  """Returns t with P(|t| <= .) = confidence, by bisection of log t."""
  confidence = jax.lax.stop_gradient(confidence)
  low = jnp.full_like(confidence, -20.0)

  def halve(_: ArrayLike, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = (low + high) / 2
    inside = _two_sided(jnp.exp(middle), degrees) > 1 - confidence
    return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

  low, high = jax.lax.fori_loop(0, 60, halve, (low, -low))
  t = jnp.exp((low + high) / 2)
  return jnp.where(confidence == 0, 0.0, jnp.where(confidence == 1, jnp.inf, t))
