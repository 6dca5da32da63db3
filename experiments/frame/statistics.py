"""The one rule by which all reports, plots and titles judge: see `LEGEND`."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

MIN_SEEDS = 3
LEVEL = 0.05
TOO_FEW = f"too few seeds for a verdict; {MIN_SEEDS} or more are needed"
MARKS = {"helped": " **+**", "hurt": " **-**"}
# Differences of accuracies that differ by less are equal up to rounding.
ROUNDING = 1e-6

# How the tables explain their intervals and marks.
LEGEND = (
  "Intervals are 95 % t intervals of the difference paired by seed, each for "
  "itself. A method is clearly better (**+**) or clearly worse (**-**) if "
  f"p < {LEVEL:g} in a paired t-test after Holm's correction over the methods "
  f"of the table; this needs {MIN_SEEDS} seeds or more."
)


class Gain(NamedTuple):
  """A difference paired by seed."""

  mean: float  # of the differences
  # The ends of the 95 % interval; None with too few seeds or if all differences
  # are equal, since then their spread is unknown.
  low: float | None = None
  high: float | None = None
  p_value: float | None = None  # Holm's; None with too few seeds

  @property
  def verdict(self) -> str:
    """Helped, hurt, unclear, unknown (too few seeds) or diverged."""
    if not math.isfinite(self.mean):
      return "diverged"
    if self.p_value is None:
      return "unknown"
    if not self.p_value < LEVEL or not self.mean:
      return "unclear"
    return "helped" if self.mean > 0 else "hurt"

  def cell(self, *, scale: float = 100, digits: int = 1) -> str:
    """A cell of a table, such as "+1.2 (+0.8 to +1.6) **+**"."""
    if self.verdict == "diverged":
      return "diverged"
    mean, mark = f"{scale * self.mean:+.{digits}f}", MARKS.get(self.verdict, "")
    if self.low is None or self.high is None:
      return mean + mark
    low, high = (f"{scale * x:+.{digits}f}" for x in (self.low, self.high))
    return f"{mean} ({low} to {high}){mark}"

  def sentence(self, method: str) -> str:
    """The verdict on a method in a sentence."""
    text = f"{100 * self.mean:+.2f} points"
    if self.low is not None and self.high is not None:
      text += f", 95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}"
    words = {
      "helped": f"{method} helped: {text}.",
      "hurt": f"{method} hurt: {text}.",
      "unclear": f"{method} had no clear effect: {text}.",
      "unknown": f"{method}: {text}; {TOO_FEW}.",
      "diverged": f"{method} diverged: its scores are not finite.",
    }
    return words[self.verdict]


def cell(gains: Mapping[str, Gain], method: str, **options: Any) -> str:
  """The cell of a method, empty for one that was not compared."""
  return gains[method].cell(**options) if method in gains else ""


def title(gain: Gain, helped: str, hurt: str, unclear: str) -> str:
  """The title of a plot of one gain, by its verdict."""
  titles = {"helped": helped, "hurt": hurt, "unclear": unclear}
  titles |= {"unknown": TOO_FEW.capitalize(), "diverged": "Students diverged"}
  return titles[gain.verdict]


def interval(values: np.ndarray) -> tuple[float, float] | None:
  """The 95 % t interval of a mean of `[seeds]`; None if too few or equal."""
  values = np.asarray(values, float)
  if len(values) < MIN_SEEDS or not np.ptp(values) > ROUNDING:
    return None
  half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return values.mean() - half, values.mean() + half


def compare(
  treated: Mapping[str, np.ndarray],
  control: np.ndarray | Mapping[str, np.ndarray],
) -> dict[str, Gain]:
  """The gains of several methods, scores `[seeds]` each, judged together.

  The control has scores `[seeds]` for all methods, or for each of them.
  """
  controls = (
    control if isinstance(control, Mapping) else dict.fromkeys(treated, control)
  )
  differences = {
    name: np.asarray(values, float) - np.asarray(controls[name], float)
    for name, values in treated.items()
  }
  adjusted = holm([_p_value(x) for x in differences.values()])
  gains = {}
  for (name, x), p_value in zip(differences.items(), adjusted, strict=True):
    low, high = interval(x) or (None, None)
    known = len(x) >= MIN_SEEDS
    gains[name] = Gain(float(x.mean()), low, high, p_value if known else None)
  return gains


def compare_bounded(
  scores: Mapping[str, np.ndarray], baseline: str, bound: str
) -> dict[str, Gain]:
  """The gains of all methods, and that of a bound without a correction."""
  methods = {k: x for k, x in scores.items() if k not in (baseline, bound)}
  gains = compare(methods, scores[baseline])
  return gains | {bound: gain_of(scores[bound], scores[baseline])}


def gain_of(treated: np.ndarray, control: np.ndarray) -> Gain:
  """The gain of one method, scores `[seeds]`, compared alone."""
  return compare({"": treated}, control)[""]


def _p_value(differences: np.ndarray) -> float:
  """Of a two-sided t-test of differences `[seeds]`."""
  if not np.abs(differences).max(initial=0) >= ROUNDING:
    return 1.0
  if np.ptp(differences) < ROUNDING:
    # A t-test of equal differences gives 0: count their signs instead.
    return 2.0 ** (1 - len(differences))
  if len(differences) < 2:
    return 1.0
  return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Iterable[float]) -> list[float]:
  """P-values after Holm's correction for comparing several methods at once."""
  values = np.array(list(p_values), float)
  order = np.argsort(values)
  raised = values[order] * np.arange(len(values), 0, -1)
  values[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
  return values.tolist()


def named(
  gains: Mapping[str, Gain], verdict: str, names: Mapping[str, str]
) -> str:
  """The methods of a verdict, such as "DANN +3.1, MMD +2.0", or "none"."""
  found = [name for name, gain in gains.items() if gain.verdict == verdict]
  found.sort(key=lambda name: -gains[name].mean)
  texts = [f"{names[name]} {100 * gains[name].mean:+.1f}" for name in found]
  return ", ".join(texts) or "none"


def findings(
  gains: Mapping[str, Gain], names: Mapping[str, str], over: str
) -> list[str]:
  """A sentence for each kind of verdict; `over` names the baseline."""
  if not gains:
    return []
  if any(gain.verdict == "unknown" for gain in gains.values()):
    texts = named(gains, "unknown", names)
    return [f"Gain over {over}: {texts}; {TOO_FEW}."]
  diverged = [names[k] for k, x in gains.items() if x.verdict == "diverged"]
  return [
    *([f"Diverged: {', '.join(diverged)}."] if diverged else []),
    f"Clearly better than {over}: {named(gains, 'helped', names)}.",
    f"Clearly worse than {over}: {named(gains, 'hurt', names)}.",
    f"No clear difference from {over}: {named(gains, 'unclear', names)}.",
  ]


def headline(
  gains: Mapping[str, Gain], names: Mapping[str, str], over: str
) -> str:
  """The title of a plot of these gains."""
  if any(gain.verdict == "unknown" for gain in gains.values()):
    return TOO_FEW.capitalize()
  helped = [name for name, gain in gains.items() if gain.verdict == "helped"]
  if not helped:
    return f"No method is clearly better than {over}"
  best = max(helped, key=lambda name: gains[name].mean)
  return f"{names[best]}: {100 * gains[best].mean:+.1f} points over {over}"


def percent(values: np.ndarray) -> str:
  """Mean and standard deviation of rates `[seeds]` in percent."""
  return mean_std(values, scale=100, digits=1)


def over_seeds(count: int) -> str:
  """The meaning of the numbers of a table, in words."""
  if count == 1:
    return "Of one seed, so without a deviation"
  return f"Mean ± standard deviation over {count} seeds"


def mean_std(values: np.ndarray, *, scale: float = 1, digits: int = 2) -> str:
  """Mean and standard deviation of `[seeds]`, such as "93.10 ± 0.42"."""
  values = scale * np.atleast_1d(np.asarray(values, float))
  mean = f"{values.mean():.{digits}f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {values.std(ddof=1):.{digits}f}"
