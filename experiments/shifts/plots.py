"""The figures of `experiments.shifts`; each function saves one PNG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.colors import ListedColormap

from experiments.frame.plots import COLOURS
from experiments.frame.plots import INK
from experiments.frame.plots import Path
from experiments.frame.plots import figure

# From what hurts to what helps.
GAINS = LinearSegmentedColormap.from_list(
  "gains", (COLOURS["scratch"], "#f7f7f7", COLOURS["distilled"])
)
LIMIT = 20.0  # points: where colours end, so that small gains are seen too
CLASSES = COLOURS["distilled"], COLOURS["scratch"]


class Gains(NamedTuple):
  """A panel of the map of gains.

  Attributes:
    points: `[rows, shifts]`, the mean gains over source-only.
    sure: `[rows, shifts]`, which of them are not chance.
  """

  points: np.ndarray
  sure: np.ndarray


def gain_maps(
  path: Path,
  panels: Mapping[str, Gains],
  *,
  rows: Sequence[str],
  groups: Mapping[str, int],
  columns: Sequence[str],
  title: str,
) -> None:
  """Heat maps of gains: methods against shifts.

  Args:
    path: of the PNG.
    panels: title -> its gains, from left to right.
    rows: names of the methods, from the top down.
    groups: kind of methods -> how many rows it has, from the top down.
    columns: names of the shifts.
    title: the finding.
  """
  size = {
    "width": 2.6 + 0.95 * len(panels) * len(columns),
    "height": 1.9 + 0.33 * len(rows),
  }
  with figure(path, columns=len(panels), **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    for axes, (name, (gains, sure)) in zip(
      np.ravel(grid), panels.items(), strict=True
    ):
      axes.imshow(gains, cmap=GAINS, vmin=-LIMIT, vmax=LIMIT, aspect="auto")
      for (i, j), gain in np.ndenumerate(gains):
        axes.text(
          j,
          i,
          f"{round(gain, 1) + 0.0:+.1f}",  # no -0.0
          ha="center",
          va="center",
          color="white" if abs(gain) > 0.7 * LIMIT else INK,
          alpha=1 if sure[i, j] else 0.75,
          weight="bold" if sure[i, j] else "normal",
        )
      for end in np.cumsum(list(groups.values()))[:-1]:
        axes.axhline(end - 0.5, color="white", lw=5)
      axes.set_xticks(range(len(columns)), columns)
      axes.set_yticks(range(len(rows)), rows)
      axes.set_title(name, fontsize=10.5)
      axes.grid(visible=False)
      axes.spines[:].set_visible(False)
      axes.tick_params(length=0)
    for axes in np.ravel(grid)[1:]:
      axes.tick_params(labelleft=False)
    start = 0
    for kind, count in groups.items():
      axes = np.ravel(grid)[-1]
      middle = start + (count - 1) / 2
      axes.text(len(columns) - 0.4, middle, kind, va="center", color="#595959")
      start += count


def samples(
  path: Path,
  domains: Mapping[str, Sequence[Any]],
  margins: Mapping[str, Callable[[np.ndarray], np.ndarray]],
  title: str,
) -> None:
  """Both domains of each shift and where source-only parts the classes.

  Args:
    path: of the PNG.
    domains: shift -> points and labels of the source, and of the target.
    margins: shift -> margins of points, above 0 for class 1.
    title: the finding.
  """
  count = len(domains)
  size = {"width": 0.4 + 2.5 * count, "height": 5.4}
  with figure(path, rows=2, columns=count, **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    grid = np.reshape(grid, (2, count))
    for column, (shift, parts) in zip(grid.T, domains.items(), strict=True):
      everything = np.concatenate([points for points, _ in parts])
      low, high = everything.min(0) - 0.3, everything.max(0) + 0.3
      plane = np.meshgrid(*np.linspace(low, high, 120).T)
      corners = np.stack([x.ravel() for x in plane], 1)
      sides = (margins[shift](corners) > 0).reshape(plane[0].shape)
      for axes, (points, labels) in zip(column, parts, strict=True):
        axes.pcolormesh(
          *plane,
          sides,
          cmap=ListedColormap(CLASSES),
          vmin=0,
          vmax=1,
          alpha=0.15,
          lw=0,
          rasterized=True,
        )
        colours = np.array(CLASSES)[labels]
        axes.scatter(*points.T, s=6, c=colours, alpha=0.6, lw=0)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
      column[0].set_title(shift, fontsize=10.5)
    for axes, name in zip(grid[:, 0], ("source", "target"), strict=True):
      axes.set_ylabel(name)
