"""The figure of `experiments.generalize`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.frame.plots import COLOURS
from experiments.frame.plots import FAINT
from experiments.frame.plots import Path
from experiments.frame.plots import figure
from experiments.frame.plots import percent
from experiments.frame.statistics import is_known
from experiments.frame.statistics import paired_interval

# Okabe and Ito's palette, as in `frame.plots`.
SHADES = (COLOURS["distilled"], "#009e73", COLOURS["scratch"])


def accuracy_grid(
  path: Path,
  accuracies: Mapping[str, Mapping[str, np.ndarray]],
  panels: Sequence[str],
  *,
  target_only: np.ndarray,
  oracle: str,
  title: str,
) -> None:
  """Accuracy of each method by each rule, a panel a target.

  Args:
    path: of the PNG.
    accuracies: rule -> method -> rates `[seeds, panels]`. The first rule's
      first method is the one to compare with.
    panels: their names.
    target_only: rates `[seeds, panels]` of what could be hoped for.
    oracle: the rule whose marks are open.
    title: the finding.
  """
  first = next(iter(accuracies.values()))
  yardstick = next(iter(first.values())).mean(0)
  places = np.arange(len(first))
  shifts = np.linspace(-0.22, 0.22, len(accuracies))
  size = {"width": 1.6 + 2.3 * len(panels), "height": 1.6 + 0.3 * len(first)}
  with figure(path, columns=len(panels), **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
      axes.axvline(yardstick[i], color="#8c8c8c", ls="--", lw=1.2)
      axes.axvline(target_only[:, i].mean(), color="#8c8c8c", ls=":", lw=1.4)
      for rule, shade, shift in zip(accuracies, SHADES, shifts, strict=False):
        values = [rates[:, i] for rates in accuracies[rule].values()]
        intervals = [paired_interval(x, np.zeros_like(x)) for x in values]
        means = np.array([x.mean for x in intervals])
        halves = [x.high - x.mean if is_known(x) else 0.0 for x in intervals]
        axes.errorbar(
          means,
          places + shift,
          xerr=halves,
          fmt="D" if rule == oracle else "o",
          ms=4.5,
          mfc="white" if rule == oracle else shade,
          color=shade,
          lw=1.2,
          label=rule if i == 0 else None,
        )
      axes.set_yticks(places, list(first) if i == 0 else [""] * len(first))
      axes.set_ylim(len(first) - 0.4, -0.6)
      axes.set_title(panel, fontsize=10.5)
      axes.xaxis.set_major_formatter(percent)
      axes.xaxis.set_major_locator(MaxNLocator(4))
      axes.tick_params(axis="y", length=0)
      axes.grid(color=FAINT, axis="y", lw=0.6)
    canvas.supxlabel("accuracy on the target", fontsize=10)
    canvas.legend(loc="outside upper right", ncols=len(accuracies))
