"""The figure of `experiments.generalize`."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.frame import plots
from experiments.frame import statistics

SHADES = (plots.BLUE, plots.GREEN, plots.RED)


def accuracy_grid(
  path: plots.Path,
  accuracies: Mapping[str, Mapping[str, np.ndarray]],
  panels: Sequence[str],
  *,
  target_only: np.ndarray,
  oracle: str,
  title: str,
) -> None:
  """Accuracy of each method by each rule, a panel a target."""
  first = next(iter(accuracies.values()))
  yardstick = next(iter(first.values())).mean(0)
  places = np.arange(len(first))
  shifts = np.linspace(-0.22, 0.22, len(accuracies))
  size = {"width": 1.8 + 2.3 * len(panels), "height": 2.0 + 0.32 * len(first)}
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
      axes.axvline(yardstick[i], color=plots.GREY, ls="--", lw=1.2)
      bound = target_only[:, i].mean()
      axes.axvline(bound, color=plots.GREY, ls=":", lw=1.4)
      ends = [yardstick[i], bound]
      for rule, shade, shift in zip(accuracies, SHADES, shifts, strict=False):
        style = "D" if rule == oracle else "o"
        fill = "white" if rule == oracle else shade
        for place, rates in zip(
          places + shift, accuracies[rule].values(), strict=True
        ):
          mean = rates[:, i].mean()
          # No accuracy is outside of [0, 1].
          low, high = np.clip(
            statistics.interval(rates[:, i]) or (mean, mean), 0, 1
          )
          ends += [low, high]
          axes.plot((low, high), (place, place), color=shade, lw=1.2)
          axes.plot(mean, place, style, ms=4.5, mfc=fill, color=shade)
      axes.set_yticks(places, list(first) if i == 0 else [""] * len(first))
      margin = 0.05 * max(max(ends) - min(ends), 0.1)
      axes.set(
        xlabel="accuracy",
        ylim=(len(first) - 0.4, -0.6),
        xlim=(max(min(ends) - margin, 0), min(max(ends) + margin, 1)),
      )
      axes.set_title(panel)
      axes.xaxis.set_major_formatter(plots.percent)
      axes.xaxis.set_major_locator(MaxNLocator(4))
      axes.tick_params(axis="y", length=0)
      axes.grid(color=plots.FAINT, axis="y", lw=0.6)
    marks = [
      plots.mark(
        rule,
        shade,
        "D" if rule == oracle else "o",
        mfc="white" if rule == oracle else shade,
      )
      for rule, shade in zip(accuracies, SHADES, strict=False)
    ]
    line = functools.partial(plots.Line2D, [], [], color=plots.GREY)
    marks += [line(ls="--", label="ERM"), line(ls=":", label="target-only")]
    plots.legend(grid, marks)
