"""The figure of `experiments.continual`: accuracy matrices over tasks."""

from typing import Any

import numpy as np

from experiments.continual.training import label_of
from experiments.frame import plots

COLUMNS = 4
MOST_TEXTS = 10  # tasks up to which a cell has a number


def matrices(
  path: Any, results: dict[Any, Any], *, title: str
) -> dict[str, str]:
  """Draws a matrix for each method that learns in turn; returns its caption."""
  shown = {k: x for k, x in results.items() if len(x.class_il) > 1}
  tasks = len(next(iter(shown.values())).class_il)
  columns = min(COLUMNS, len(shown))
  rows = -(-len(shown) // columns)
  size = {"width": 2.5 * columns, "height": 0.7 + 2.4 * rows}
  with plots.figure(
    path, title=title, rows=rows, columns=columns, **size
  ) as grid:
    grid = np.ravel(grid)
    for axes in grid[len(shown) :]:
      axes.set_axis_off()
    for i, (axes, (cell, result)) in enumerate(
      zip(grid, shown.items(), strict=False)
    ):
      values = result.class_il.mean(-1)
      future = np.triu(np.ones((tasks, tasks), bool), 1)
      texts = np.char.mod("%.0f", 100 * values)
      texts[future] = ""
      names = [str(task + 1) for task in range(tasks)]
      if tasks > MOST_TEXTS:
        texts[:] = ""
        names = [x if not task % 5 else "" for task, x in enumerate(names)]
      plots.heat_map(
        axes,
        np.where(future, 0, values),
        rows=names,
        columns=names,
        texts=texts.ravel().tolist(),
        cmap=plots.BLUES,
        vmin=0,
        vmax=1,
      )
      axes.set_title(label_of(*cell))
      if not i % columns:
        axes.set_ylabel("after task")
      if i + columns >= len(shown):
        axes.set_xlabel("accuracy on task")
  caption = (
    "Accuracy on each task after each task, in percent, mean over seeds. Tasks "
    "to come are left empty."
  )
  return {path.name: caption}
