"""The figures of `experiments.finetune`; each function saves one PNG."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.lines import Line2D

from experiments.frame.plots import INK
from experiments.frame.plots import Path
from experiments.frame.plots import figure
from experiments.frame.plots import percent
from experiments.frame.statistics import paired_interval

# Okabe and Ito's palette, as in `frame.plots`.
SCRATCH, BASELINE, METHOD, META = "#d55e00", "#3d3d3d", "#0072b2", "#009e73"
TEACHERS = (
  "#0072b2",
  "#56b4e9",
  "#009e73",
  "#e69f00",
  "#cc79a7",
  "#d55e00",
  "#8c6bb1",
  "#3d3d3d",
)
MARKERS = "osD^vP*X"


def accuracy_bars(
  path: Path,
  rates: Mapping[str, np.ndarray],
  oracles: Mapping[str, np.ndarray],
  colours: Mapping[str, str],
  *,
  reference: str,
  title: str,
) -> None:
  """Accuracies with their 95 % intervals, and each seed as a dot.

  Args:
    path: of the PNG.
    rates: name -> rates `[seeds]`, from top to bottom.
    oracles: name -> rates of what an oracle chose, `[seeds]`.
    colours: name -> colour.
    reference: the name whose mean is drawn as a line.
    title: the finding.
  """
  with figure(path, width=7.2, height=1.5 + 0.34 * len(rates)) as (
    canvas,
    axes,
  ):
    lowest = min(values.min() for values in rates.values())
    for i, (name, values) in enumerate(rates.items()):
      mean, low, high = paired_interval(values, np.zeros_like(values))
      axes.barh(i, mean, 0.66, color=colours[name], alpha=0.85, lw=0)
      axes.plot(values, np.full(len(values), i), ".", color=INK, alpha=0.3)
      if np.isfinite(low):
        ends = [[mean - low], [high - mean]]
        axes.errorbar(mean, i, xerr=ends, color=INK, capsize=3, lw=1.5)
      edge = max(values.max(), high if np.isfinite(high) else mean)
      if name in oracles:
        oracle = oracles[name].mean()
        edge = max(edge, oracle)
        axes.plot(oracle, i, "D", mfc="white", mec=INK, ms=5, zorder=4)
      axes.text(edge + 0.008, i, f"{mean:.1%}", va="center", fontsize=9)
    axes.axvline(
      rates[reference].mean(), color=colours[reference], ls="--", lw=1.2
    )
    axes.set_yticks(range(len(rates)), rates)
    axes.invert_yaxis()
    left = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    axes.set(
      xlabel="accuracy on target test images", title=title, xlim=(left, 1.02)
    )
    axes.xaxis.set_major_formatter(percent)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    diamond = Line2D(
      [],
      [],
      ls="",
      marker="D",
      mfc="white",
      mec=INK,
      label="chosen with many target labels",
    )
    canvas.legend(handles=[diamond], loc="outside lower right")


def score_scatter(
  path: Path,
  scores: Mapping[str, np.ndarray],
  accuracy: np.ndarray,
  taus: Mapping[str, str],
  *,
  teachers: Sequence[str],
  title: str,
) -> None:
  """Scores of transferability against the accuracy that fine-tuning reaches.

  Args:
    path: of the PNG.
    scores: criterion -> scores `[teachers, seeds]`.
    accuracy: `[teachers, seeds]`.
    taus: criterion -> its rank correlation, as text.
    teachers: their names.
    title: the finding.
  """
  rows = -(-len(scores) // 3)
  size = {"width": 9.0, "height": 1.2 + 2.5 * rows}
  with figure(path, rows=rows, columns=3, **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    for axes, (name, values) in zip(
      np.ravel(grid), scores.items(), strict=True
    ):
      for i in range(len(teachers)):
        style = {"color": TEACHERS[i], "marker": MARKERS[i], "ls": ""}
        axes.plot(values[i], accuracy[i], alpha=0.22, ms=4, mew=0, **style)
        axes.plot(values[i].mean(), accuracy[i].mean(), ms=8, mec="w", **style)
      axes.set_title(f"{name}\n{taus[name]}", fontsize=9.5, weight="normal")
      axes.yaxis.set_major_formatter(percent)
    canvas.supxlabel("score before fine-tuning", fontsize=10)
    canvas.supylabel("accuracy after fine-tuning", fontsize=10)
    handles = [
      Line2D([], [], ls="", color=TEACHERS[i], marker=MARKERS[i], label=name)
      for i, name in enumerate(teachers)
    ]
    canvas.legend(handles=handles, loc="outside right center")
