"""What several seeds say, in numbers and in words."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

ONE_SEED = "one seed: nothing can be concluded"


class Interval(NamedTuple):
  """A mean and its confidence interval.

  Attributes:
    mean: of the sample.
    low: the lower end.
    high: the upper end.
  """

  mean: float
  low: float
  high: float


def paired_interval(
  treated: np.ndarray, control: np.ndarray, *, confidence: float = 0.95
) -> Interval:
  """Mean difference of pairs with its t interval.

  Pairs that share a seed share what it decides (initial weights, order of the
  data), so the differences vary less than the groups do.

  Args:
    treated: `[seeds]`.
    control: `[seeds]`, in the same order.
    confidence: the probability that the interval holds the true mean.

  Returns:
    The interval, without ends if there is only one pair.
  """
  differences = np.asarray(treated, float) - np.asarray(control, float)
  count, mean = len(differences), float(differences.mean())
  if count < 2:
    return Interval(mean, float("-inf"), float("inf"))
  quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
  half = quantile * float(differences.std(ddof=1)) / count**0.5
  return Interval(mean, mean - half, mean + half)


def paired_p_value(treated: np.ndarray, control: np.ndarray) -> float:
  """The p-value of a two-sided paired t-test.

  Args:
    treated: `[seeds]`.
    control: `[seeds]`, in the same order.

  Returns:
    1 if there is only one pair or no difference at all.
  """
  differences = np.asarray(treated, float) - np.asarray(control, float)
  if len(differences) < 2 or not differences.any():
    return 1.0
  if not differences.std():
    return 0.0
  return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """P-values after Holm's correction for trying several things at once.

  Args:
    p_values: one a comparison.

  Returns:
    In the same order; all below .05 hold together with probability .95.
  """
  order = np.argsort(p_values)
  factors = len(p_values) - np.arange(len(p_values))
  steps = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
  result = np.empty(len(p_values))
  result[order] = np.minimum(steps, 1.0)
  return result.tolist()


def mean_std(values: np.ndarray, *, scale: float = 1, digits: int = 2) -> str:
  """Mean and standard deviation over seeds, as text.

  Args:
    values: `[seeds]`; one value is shown without a deviation.
    scale: 100 for percent.
    digits: after the point.

  Returns:
    Such as "93.10 ± 0.42".
  """
  values = scale * np.atleast_1d(np.asarray(values, float))
  mean = f"{values.mean():.{digits}f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {values.std(ddof=1):.{digits}f}"


def is_known(interval: Interval) -> bool:
  """Whether there were enough seeds for an interval.

  Args:
    interval: from :func:`paired_interval`.

  Returns:
    False if there was one seed.
  """
  return interval.high < float("inf")


def points(interval: Interval) -> str:
  """A difference of rates with its interval, as text.

  Args:
    interval: of rates in [0, 1].

  Returns:
    Such as "+1.20 points, 95 % interval +0.80 to +1.60".
  """
  mean, low, high = (f"{100 * x:+.2f}" for x in interval)
  return f"{mean} points, 95 % interval {low} to {high}"


def gain(interval: Interval, digits: int) -> str:
  """A difference with its interval, as a cell of a table.

  Args:
    interval: in the table's unit.
    digits: after the point.

  Returns:
    Such as "+1.2 (+0.8 to +1.6)"; of one seed "+1.2 (one seed)".
  """
  mean, low, high = (f"{value:+.{digits}f}" for value in interval)
  return f"{mean} ({f'{low} to {high}' if is_known(interval) else 'one seed'})"


def verdict(method: str, interval: Interval) -> str:
  """What an interval of the gain means, in words.

  Args:
    method: what was tried, such as "Distillation".
    interval: its gain in accuracy, in [-1, 1].

  Returns:
    One sentence.
  """
  if not is_known(interval):
    return f"{method} gained {100 * interval.mean:+.2f} points; {ONE_SEED}."
  if interval.low > 0:
    return f"{method} helped: {points(interval)}."
  if interval.high < 0:
    return f"{method} did not help, it hurt: {points(interval)}."
  return (
    f"{method} did not help: the interval of its gain includes zero "
    f"({points(interval)})."
  )


def median_milliseconds(call: Callable[[], Any], *, calls: int = 50) -> float:
  """Times a call to its end, once it is compiled and warm.

  Args:
    call: returns arrays, which are waited for.
    calls: how many are timed.

  Returns:
    The median.
  """
  times = []
  for _ in range(calls + 3):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - begin)
  return 1e3 * statistics.median(times[3:])
