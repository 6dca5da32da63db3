"""The figures of `experiments.distill`; each function saves one PNG."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from experiments.frame import plots
from experiments.frame.plots import COLOURS


def learning_curves(
  path: plots.Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  teacher: float,
  title: str,
) -> None:
  """Validation accuracy over the steps of training."""
  with plots.figure(path, title=title, width=6.8, height=4.4) as axes:
    axes.axhline(teacher, color=COLOURS["teacher"], ls="--", lw=1.5)
    for name, values in curves.items():
      plots.band(axes, steps, values, name, COLOURS[name])
    # The first steps are far below all that matters.
    late = np.concatenate(
      [x[len(steps) // 8 :].ravel() for x in curves.values()]
    )
    top, bottom = max(float(late.max()), teacher), float(late.min())
    margin = 0.08 * max(top - bottom, 0.01)
    axes.set(
      xlabel="training step",
      ylabel="validation accuracy",
      xlim=(0, steps[-1]),
      ylim=(max(bottom - margin, 0.0), min(top + margin, 1.0)),
    )
    axes.yaxis.set_major_formatter(plots.percent)
    handles = axes.get_legend_handles_labels()[0]
    dashed = plots.Line2D(
      [], [], color=COLOURS["teacher"], ls="--", lw=1.5, label="teacher"
    )
    plots.legend(axes, [dashed, *handles])


def grid_map(
  path: plots.Path,
  scratch: float,
  rates: np.ndarray,
  *,
  temperatures: list[float],
  alphas: list[float],
  chosen: tuple[int, int],
  title: str,
) -> None:
  """Rates of all cells of the grid, the chosen one framed."""
  values = np.insert(rates, 0, scratch, axis=1)
  size = {
    "width": max(2.2 + 0.95 * values.shape[1], 4.6),
    "height": 1.8 + 0.6 * len(values),
  }
  with plots.figure(path, title=title, **size) as axes:
    plots.heat_map(
      axes,
      values,
      rows=[f"{value:g}" for value in temperatures],
      columns=["0\nscratch", *(f"{value:g}" for value in alphas)],
      texts=[f"{100 * value:.1f}" for value in values.ravel()],
      cmap=plots.BLUES,
      origin="lower",
    )
    frame = Rectangle(
      (chosen[1] + 0.5, chosen[0] - 0.5),
      1,
      1,
      fill=False,
      edgecolor=COLOURS["scratch"],
      lw=3,
      clip_on=False,
      zorder=3,
    )
    axes.add_patch(frame)
    axes.axvline(0.5, color="white", lw=6)
    axes.set(ylabel="temperature T", xlabel="alpha, the weight of the teacher")


def reliability_diagram(
  path: plots.Path,
  curves: Mapping[str, Any],
  errors: Mapping[str, str],
  title: str,
) -> None:
  """Accuracy at each confidence, and how often each confidence occurs."""
  size = {"width": 5.6, "height": 5.9}
  with plots.figure(path, title=title, rows=2, **size) as axes:
    top, bottom = axes
    top.get_gridspec().set_height_ratios((3.2, 1))
    top.plot((0, 1), (0, 1), color=plots.GREY, ls="--", lw=1.2)
    top.text(0.04, 0.09, "perfect", rotation=45, color="#737373", fontsize=9)
    for name, curve in curves.items():
      count = np.asarray(curve.count)
      # The rate of a handful of examples is noise.
      seen = count >= 10
      top.plot(
        np.asarray(curve.confidence)[seen],
        np.asarray(curve.accuracy)[seen],
        color=COLOURS[name],
        marker="o",
        ms=4.5,
        label=f"{name} (ECE {errors[name]})",
      )
      edges = np.linspace(0, 1, len(count) + 1)
      bottom.stairs(count / count.sum(), edges, color=COLOURS[name], lw=1.8)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.tick_params(labelbottom=False)
    plots.legend(top, top.get_legend_handles_labels()[0])
    bottom.set(
      xlabel="confidence",
      ylabel="share",
      xlim=(0, 1),
      yscale="log",
      ylim=(2e-3, 1.2),
      yticks=(0.01, 0.1, 1),
    )
    bottom.yaxis.set_major_formatter(plots.percent)
    bottom.minorticks_off()
    top.figure.align_ylabels()


def softened_targets(
  path: plots.Path,
  images: np.ndarray,
  labels: np.ndarray,
  targets: Mapping[str, np.ndarray],
  title: str,
) -> None:
  """Images beside the teacher's probabilities."""
  count, classes = len(images), next(iter(targets.values())).shape[-1]
  tints = (plots.FAINT, plots.DARK)[-len(targets) :]
  width = 0.8 / len(targets)
  size = {"width": 6.4, "height": 0.7 + 1.1 * count}
  with plots.figure(path, title=title, rows=count, columns=2, **size) as grid:
    grid[0].get_gridspec().set_width_ratios((1, 5.2))
    for n, (picture, bars) in enumerate(grid.reshape(count, 2)):
      picture.imshow(images[n].squeeze(), cmap="gray_r")
      picture.set(xticks=[], yticks=[])
      picture.spines[:].set_visible(False)
      for i, (tint, rows) in enumerate(
        zip(tints, targets.values(), strict=True)
      ):
        places = np.arange(classes) + (i - (len(targets) - 1) / 2) * width
        bars.bar(places, rows[n], width, color=tint)
      bars.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(-0.6, classes - 0.4))
      bars.yaxis.set_major_formatter(plots.percent)
      bars.grid(visible=False, axis="x")
      bars.set_xticks(range(classes), map(str, range(classes)))
      label = bars.get_xticklabels()[int(labels[n])]
      label.set(weight="bold", color=plots.INK)
    grid[-1].set_xlabel("class, the label in bold")
    marks = zip(targets, tints, strict=True)
    plots.legend(grid, [plots.mark(*pair) for pair in marks])
