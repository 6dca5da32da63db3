"""The figures of `experiments.shifts`; each function saves one PNG."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.colors import Normalize

from experiments.frame import plots
from experiments.frame import statistics
from experiments.shifts.methods import METHODS
from experiments.shifts.methods import NAMES
from experiments.shifts.methods import fit
from experiments.shifts.methods import source_only

LIMIT = 20.0  # points: where colors end, so that small gains are seen too
CLASSES = plots.BLUE, plots.RED

# Shift -> method -> its gain over source-only.
Verdicts = dict[str, dict[str, statistics.Gain]]


def gain_maps(
  path: plots.Path,
  panels: Mapping[str, Verdicts],
  starts: Mapping[str, float],
  bounds: Mapping[str, float],
) -> dict[str, str]:
  """Heat maps of gains by shift and method; returns the caption.

  The first panel gives the title; `starts` are the accuracies of source-only
  and `bounds` those of target-only, which is no method and has no verdict.
  """
  blind = next(iter(panels.values()))
  methods = list(next(iter(blind.values())))
  kinds = Counter(METHODS[method].kind for method in methods)
  kinds["target labels"] = 1
  names = [*(NAMES[name] for name in methods), "target-only"]
  verdicts = [[x[method].verdict for x in blind.values()] for method in methods]
  most = max(row.count("helped") for row in verdicts)
  title = "No method is clearly better than source-only"
  if "unknown" in itertools.chain(*verdicts):
    title = statistics.TOO_FEW.capitalize()
  elif most:
    title = f"No method helps on more than {most} of {len(blind)} shifts"
  title += ": gain over source-only, points"
  width = len(panels) * max(0.95 * len(blind), 2.4)
  width += 1.9 + 0.07 * max(map(len, names))
  size = {"width": width, "height": 2.0 + 0.33 * len(names)}
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    for axes, (name, gains) in zip(grid, panels.items(), strict=True):
      rows = [[x[method] for x in gains.values()] for method in methods]
      points = [[gain.mean for gain in row] for row in rows]
      points.append([bounds[shift] - starts[shift] for shift in gains])
      points = 100 * np.array(points)
      clear = [[x.verdict in statistics.MARKS for x in row] for row in rows]
      plots.heat_map(
        axes,
        points,
        rows=names,
        columns=[f"{shift}\nfrom {x:.1%}" for shift, x in starts.items()],
        texts=[f"{round(x, 1) + 0.0:+.1f}" for x in points.ravel()],  # no -0.0
        bold=np.array([*clear, [False] * len(starts)]),
        cmap=plots.GAINS,
        norm=Normalize(-LIMIT, LIMIT),
      )
      for end in np.cumsum(list(kinds.values()))[:-1]:
        axes.axhline(end - 0.5, color="white", lw=5)
      axes.set_title(name)
    for axes in grid[1:]:
      axes.tick_params(labelleft=False)
    end = 0
    for kind, count in kinds.items():
      place = len(blind) - 0.4, end + (count - 1) / 2
      grid[-1].text(*place, kind, va="center", color="#595959")
      end += count
  caption = (
    "Gain over source-only in points of target accuracy, mean over seeds, bold "
    "where it is clear. Below each shift is the accuracy of source-only."
  )
  return {path.name: caption}


def samples(
  path: plots.Path, problems: Mapping[Any, Any], title: str
) -> dict[str, str]:
  """Both domains of each shift and the decisions of source-only there."""
  count = len(problems)
  size = {"width": 0.4 + 2.5 * count, "height": 5.4}
  with plots.figure(path, title=title, rows=2, columns=count, **size) as grid:
    grid = np.reshape(grid, (2, count))
    for column, (shift, problem) in zip(grid.T, problems.items(), strict=True):
      source, labels, target = problem.train
      parts = (source, labels), (target, problem.target_labels)
      margins = fit(source_only(problem.train))
      everything = np.concatenate([source, target])
      low, high = everything.min(0) - 0.3, everything.max(0) + 0.3
      plane = np.meshgrid(*np.linspace(low, high, 120).T)
      corners = np.stack([x.ravel() for x in plane], 1)
      sides = (margins(corners) > 0).reshape(plane[0].shape)
      for axes, (points, classes) in zip(column, parts, strict=True):
        colours = ListedColormap(CLASSES)
        style = {"vmin": 0, "vmax": 1, "alpha": 0.15, "rasterized": True}
        axes.pcolormesh(*plane, sides, cmap=colours, lw=0, **style)
        colours = np.array(CLASSES)[classes]
        axes.scatter(*points.T, s=6, c=colours, alpha=0.6, lw=0)
        axes.set(xticks=[], yticks=[])
        plots.blank(axes)
      column[0].set_title(shift)
    for axes, name in zip(grid[:, 0], ("source", "target"), strict=True):
      axes.set_ylabel(name)
  caption = (
    "Training points of the first seed. The shade is the class that "
    "source-only, trained on the upper row, predicts."
  )
  return {path.name: caption}
