"""Figures in one house style; each function saves one PNG."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too. A thing has
# the same colour in every figure.
COLOURS = {
  "teacher": "#3d3d3d",
  "scratch": "#d55e00",
  "distilled": "#0072b2",
}
INK, FAINT = "#262626", "#d9d9d9"
BLUES = LinearSegmentedColormap.from_list(
  "blues", ("#f4f8fb", "#9cc9e3", COLOURS["distilled"], "#003f66")
)
STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": "#8c8c8c",
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlepad": 10.0,
  "axes.titlesize": 11.5,
  "axes.titleweight": "bold",
  "figure.titlesize": 11.5,
  "figure.titleweight": "bold",
  "font.size": 10.0,
  "grid.color": "#e6e6e6",
  "legend.frameon": False,
  "lines.linewidth": 2.0,
  "text.color": INK,
  "xtick.color": "#595959",
  "ytick.color": "#595959",
}

Path = str | os.PathLike[str]


def percent(share: float, _: Any = None) -> str:
  """A tick of an axis of shares, without a digit too many or too few."""
  return f"{round(100 * share, 6) + 0.0:g}%"


@contextlib.contextmanager
def figure(
  path: Path, *, rows: int = 1, columns: int = 1, width: float, height: float
) -> Iterator[tuple[Figure, Any]]:
  """A figure in the house style, saved on leaving.

  Args:
    path: of the PNG.
    rows: of axes.
    columns: of axes.
    width: in inches.
    height: in inches.

  Yields:
    The figure and its axes: one, or an array of them.
  """
  with matplotlib.rc_context(STYLE):
    canvas = Figure(figsize=(width, height), layout="constrained")
    yield canvas, canvas.subplots(rows, columns)
    canvas.savefig(path, dpi=160)


def learning_curves(
  path: Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  title: str,
  ylabel: str,
  levels: Mapping[str, float] | None = None,
) -> None:
  """Learning curves: the mean over seeds in a band of one deviation.

  Args:
    path: of the PNG.
    steps: `[evaluations]`.
    curves: name -> rates `[seeds, evaluations]`.
    title: the finding.
    ylabel: what the rates are.
    levels: name -> a rate to compare with, drawn as a dashed line.
  """
  levels = levels or {}
  with figure(path, width=6.8, height=4.4) as (canvas, axes):
    for name, level in levels.items():
      axes.axhline(level, color=COLOURS[name], ls="--", lw=1.5, label=name)
    for name, values in curves.items():
      mean, deviation = values.mean(0), values.std(0)
      axes.fill_between(
        steps,
        mean - deviation,
        mean + deviation,
        color=COLOURS[name],
        alpha=0.18,
        lw=0,
      )
      axes.plot(steps, mean, color=COLOURS[name], label=name)
    # The first steps are far below all that matters.
    late = np.concatenate(
      [x[:, len(steps) // 8 :].ravel() for x in curves.values()]
    )
    top = max([float(late.max()), *levels.values()])
    bottom = float(np.quantile(late, 0.02))
    margin = 0.08 * max(top - bottom, 0.01)
    axes.set(
      xlabel="training step",
      ylabel=ylabel,
      title=title,
      xlim=(0, steps[-1]),
      ylim=(bottom - margin, min(top + margin, 1.0)),
    )
    axes.yaxis.set_major_formatter(percent)
    canvas.legend(loc="outside lower center", ncols=len(curves) + len(levels))


def heat_map(
  path: Path,
  values: np.ndarray,
  *,
  rows: Sequence[str],
  columns: Sequence[str],
  row_label: str,
  column_label: str,
  title: str,
  chosen: tuple[int, int],
  apart: int = 0,
) -> None:
  """Heat map of rates, with the chosen cell framed.

  Args:
    path: of the PNG.
    values: `[rows, columns]`, rates in [0, 1].
    rows: their names, drawn from the bottom up.
    columns: their names.
    row_label: what the rows are.
    column_label: what the columns are.
    title: the finding.
    chosen: the row and the column of the chosen cell.
    apart: how many columns at the left stand apart.
  """
  size = {"width": 2.2 + 0.95 * len(columns), "height": 1.6 + 0.6 * len(rows)}
  with figure(path, **size) as (_, axes):
    axes.imshow(values, origin="lower", cmap=BLUES, aspect="auto")
    threshold = (values.min() + values.max()) / 2
    for (i, j), value in np.ndenumerate(values):
      axes.text(
        j,
        i,
        f"{100 * value:.1f}",
        ha="center",
        va="center",
        color="white" if value > threshold else INK,
        weight="bold" if (i, j) == chosen else "normal",
      )
    frame = matplotlib.patches.Rectangle(
      (chosen[1] - 0.5, chosen[0] - 0.5),
      1,
      1,
      fill=False,
      edgecolor=COLOURS["scratch"],
      lw=3,
      clip_on=False,
      zorder=3,
    )
    axes.add_patch(frame)
    if apart:
      axes.axvline(apart - 0.5, color="white", lw=6)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=column_label, ylabel=row_label, title=title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def reliability_diagram(
  path: Path, curves: Mapping[str, Any], errors: Mapping[str, str], title: str
) -> None:
  """Reliability diagram: accuracy at each confidence, and how often each is.

  Args:
    path: of the PNG.
    curves: name -> `metrics.ReliabilityCurve`.
    errors: name -> its calibration error, as text.
    title: the finding.
  """
  with figure(path, rows=2, width=5.4, height=5.8) as (canvas, (top, bottom)):
    grid = top.get_gridspec()
    grid.set_height_ratios((3.2, 1))
    top.plot((0, 1), (0, 1), color="#8c8c8c", ls="--", lw=1.2)
    top.text(0.04, 0.09, "perfect", rotation=45, color="#737373", fontsize=9)
    for name, curve in curves.items():
      # A handful of examples says nothing about a rate.
      seen = np.asarray(curve.count) >= 10
      label = f"{name} (ECE {errors[name]})"
      top.plot(
        np.asarray(curve.confidence)[seen],
        np.asarray(curve.accuracy)[seen],
        color=COLOURS[name],
        marker="o",
        ms=4.5,
        label=label,
      )
      share = np.asarray(curve.count) / np.sum(curve.count)
      edges = np.linspace(0, 1, len(share) + 1)
      bottom.stairs(share, edges, color=COLOURS[name], lw=1.8)
    top.set(ylabel="accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
    canvas.legend(
      loc="outside lower center", ncols=3, fontsize=9, columnspacing=1
    )
    top.tick_params(labelbottom=False)
    bottom.set(
      xlabel="confidence",
      ylabel="share",
      xlim=(0, 1),
      yscale="log",
      ylim=(2e-3, 1.2),
      yticks=(0.01, 0.1, 1),
    )
    bottom.yaxis.set_major_formatter(percent)
    bottom.minorticks_off()
    canvas.align_ylabels()


def softened_targets(
  path: Path,
  images: np.ndarray,
  labels: np.ndarray,
  targets: Mapping[str, np.ndarray],
  title: str,
) -> None:
  """Softened targets: images beside the teacher's probabilities.

  Args:
    path: of the PNG.
    images: `[n, height, width, channels]`, uint8 or in [0, 1].
    labels: `[n]`.
    targets: name -> probabilities `[n, classes]`; one or two of them.
    title: the finding.
  """
  count, classes = len(images), next(iter(targets.values())).shape[-1]
  tints = (FAINT, COLOURS["teacher"])[-len(targets) :]
  with figure(path, rows=count, columns=2, width=6.4, height=1.15 * count) as (
    canvas,
    grid,
  ):
    canvas.suptitle(title, x=0.015, ha="left")
    grid[0, 0].get_gridspec().set_width_ratios((1, 5.2))
    for (picture, bars), image, label, *rows in zip(
      grid, images, labels, *targets.values(), strict=True
    ):
      picture.imshow(image.squeeze(), cmap="gray_r")
      picture.set(xticks=[], yticks=[])
      picture.spines[:].set_visible(False)
      width = 0.8 / len(rows)
      for i, (name, row) in enumerate(zip(targets, rows, strict=True)):
        offset = (i - (len(rows) - 1) / 2) * width
        bars.bar(
          np.arange(classes) + offset, row, width, color=tints[i], label=name
        )
      bars.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(-0.6, classes - 0.4))
      bars.yaxis.set_major_formatter(percent)
      bars.grid(visible=False, axis="x")
      bars.set_xticks(range(classes), map(str, range(classes)))
      bars.get_xticklabels()[int(label)].set(weight="bold", color=INK)
    handles, names = grid[0, 1].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=2)
    grid[-1, 1].set_xlabel("class, the label in bold")
