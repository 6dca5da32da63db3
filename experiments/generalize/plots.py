"""The figure of `experiments.generalize`."""

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.frame import plots
from experiments.frame import statistics
from experiments.generalize.data import DOMAINS
from experiments.generalize.methods import NAMES

SHADES = (plots.BLUE, plots.GREEN, plots.RED)


def accuracy_grid(
  path: plots.Path, job: Any, results: Any, *, oracle: str, title: str
) -> dict[str, str]:
  """Accuracies by rule and method, a panel a target; returns the caption."""

  def with_mean(values: np.ndarray) -> np.ndarray:
    """`[targets + 1, seeds]`, the last row the mean over targets."""
    return np.column_stack([values, values.mean(1)]).T

  targets = (DOMAINS[job.config.task][i] for i in job.config.targets)
  panels = [*(f"target {name}" for name in targets), "mean of targets"]
  first = next(iter(results.chosen.values()))
  # Of ERM by the first rule, and of target-only.
  lines = [with_mean(x).mean(1) for x in (first["erm"], results.target_only)]
  places = np.arange(len(first))
  shifts = np.linspace(-0.22, 0.22, len(results.chosen))
  looks = {
    rule: {"marker": "D", "mfc": "white"} if rule == oracle else {"marker": "o"}
    for rule in results.chosen
  }
  size = {"width": 1.8 + 2.3 * len(panels), "height": 2.0 + 0.32 * len(first)}
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
      ends = [x[i] for x in lines]
      for end, style in zip(ends, ("--", ":"), strict=True):
        axes.axvline(end, color=plots.GREY, ls=style, lw=1.3)
      for (rule, rows), shade, shift in zip(
        results.chosen.items(), SHADES, shifts, strict=False
      ):
        for place, values in zip(places + shift, rows.values(), strict=True):
          rates = with_mean(values)[i]
          mean = rates.mean()
          # No accuracy is outside of [0, 1].
          span = np.clip(statistics.interval(rates) or (mean, mean), 0, 1)
          ends += [*span]
          axes.plot(span, (place, place), color=shade, lw=1.2)
          axes.plot(mean, place, ms=4.5, color=shade, **looks[rule])
      plots.name_rows(axes, [NAMES[x] if i == 0 else "" for x in first])
      margin = 0.05 * max(max(ends) - min(ends), 0.1)
      limits = max(min(ends) - margin, 0), min(max(ends) + margin, 1)
      axes.set(xlabel="accuracy", xlim=limits, title=panel)
      axes.xaxis.set_major_formatter(plots.percent)
      axes.xaxis.set_major_locator(MaxNLocator(4))
      axes.grid(visible=True, color=plots.FAINT, axis="y", lw=0.6)
    marks = [
      plots.mark(rule, shade, **looks[rule])
      for rule, shade in zip(results.chosen, SHADES, strict=False)
    ]
    styles = {"ERM": "--", "target-only": ":"}
    marks += [plots.line(x, plots.GREY, ls, 2.0) for x, ls in styles.items()]
    plots.legend(grid, marks)
  caption = (
    "Accuracy on the target, means with 95 % intervals, by the rule that "
    "chose the student. Open marks: chosen with target labels. Dashed: ERM, "
    "chosen on training domains. Dotted: trained on the target."
  )
  return {path.name: caption}
