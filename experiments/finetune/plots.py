"""The scatter plot of `experiments.finetune`."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.frame import plots

MARKERS = "osD^vP*X"


def score_scatter(
  path: plots.Path,
  panels: Mapping[str, np.ndarray],
  accuracy: np.ndarray,
  *,
  teachers: Sequence[str],
  title: str,
) -> None:
  """Scores against the accuracy after fine-tuning, `[teachers, seeds]` each."""
  rows = -(-len(panels) // 3)
  size = {"width": 9.0, "height": 1.6 + 2.5 * rows}
  looks = list(zip(plots.SERIES, MARKERS, strict=True))[: len(teachers)]
  with plots.figure(path, title=title, rows=rows, columns=3, **size) as grid:
    for axes, (name, values) in zip(grid, panels.items(), strict=True):
      for seeds, reached, (colour, marker) in zip(
        values, accuracy, looks, strict=True
      ):
        style = {"color": colour, "marker": marker, "ls": ""}
        axes.plot(seeds, reached, alpha=0.22, ms=4, mew=0, **style)
        axes.plot(seeds.mean(), reached.mean(), ms=8, mec="w", **style)
      axes.set_title(name, fontsize=9.5, weight="normal")
      axes.yaxis.set_major_formatter(plots.percent)
      axes.locator_params("x", nbins=4)
    for axes in grid[-3:]:
      axes.set_xlabel("score before fine-tuning")
    for axes in grid[::3]:
      axes.set_ylabel("accuracy after")
    marks = [
      plots.mark(x, *look) for x, look in zip(teachers, looks, strict=True)
    ]
    plots.legend(grid, marks)
