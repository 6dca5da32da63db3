"""The figures of `experiments.shifts`; each function saves one PNG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import ListedColormap

from experiments.frame import plots

LIMIT = 20.0  # points: where colors end, so that small gains are seen too
CLASSES = plots.BLUE, plots.RED


class Gains(NamedTuple):
  """A panel of the map of gains."""

  points: np.ndarray  # `[rows, shifts]`, the mean gains over source-only
  clear: np.ndarray  # `[rows, shifts]`, which of them have a verdict


def gain_maps(
  path: plots.Path,
  panels: Mapping[str, Gains],
  *,
  rows: Sequence[str],
  groups: Mapping[str, int],
  columns: Sequence[str],
  title: str,
) -> None:
  """Heat maps of gains: methods against shifts."""
  longest = max(map(len, rows))
  size = {
    "width": 1.9 + 0.07 * longest + len(panels) * max(0.95 * len(columns), 2.4),
    "height": 2.0 + 0.33 * len(rows),
  }
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    grid = np.ravel(grid)
    for axes, (name, (gains, clear)) in zip(grid, panels.items(), strict=True):
      plots.heat_map(
        axes,
        gains,
        rows=rows,
        columns=columns,
        texts=[f"{round(x, 1) + 0.0:+.1f}" for x in gains.ravel()],  # no -0.0
        bold=clear,
        cmap=plots.GAINS,
        vmin=-LIMIT,
        vmax=LIMIT,
      )
      for end in np.cumsum(list(groups.values()))[:-1]:
        axes.axhline(end - 0.5, color="white", lw=5)
      axes.set_title(name)
    for axes in grid[1:]:
      axes.tick_params(labelleft=False)
    start = 0
    for kind, count in groups.items():
      middle = start + (count - 1) / 2
      place = len(columns) - 0.4
      grid[-1].text(place, middle, kind, va="center", color="#595959")
      start += count


def samples(
  path: plots.Path,
  domains: Mapping[str, Sequence[Any]],
  margins: Mapping[str, Callable[[np.ndarray], np.ndarray]],
  title: str,
) -> None:
  """Both domains of each shift and where source-only parts the classes."""
  count = len(domains)
  size = {"width": 0.4 + 2.5 * count, "height": 5.4}
  with plots.figure(path, title=title, rows=2, columns=count, **size) as grid:
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
        plots.blank(axes)
      column[0].set_title(shift)
    for axes, name in zip(grid[:, 0], ("source", "target"), strict=True):
      axes.set_ylabel(name)
