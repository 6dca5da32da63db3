"""The figures of `experiments.adapt`; each function saves one PNG."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from experiments.frame.plots import FAINT
from experiments.frame.plots import INK
from experiments.frame.plots import Path
from experiments.frame.plots import figure
from experiments.frame.plots import percent
from experiments.frame.statistics import paired_interval

# Okabe and Ito's palette, as in `frame.plots`: one colour a kind of method.
COLOURS = {
  "bounds": "#3d3d3d",
  "discrepancy": "#009e73",
  "adversarial": "#0072b2",
  "predictions": "#e69f00",
  "self-training": "#cc79a7",
  "inputs": "#56b4e9",
  "instance weights": "#a6761d",
  "closed-form maps": "#8c8c8c",
}
CURVES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#3d3d3d")
SHOWN = 200  # points of a domain in a scatter plot; more would hide each other


def divergence_curves(
  path: Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  null: float,
  title: str,
) -> None:
  """H-divergence over time: the mean over seeds in a band of one deviation.

  Args:
    path: of the PNG.
    steps: `[evaluations]`.
    curves: name -> d_H `[evaluations, seeds]`.
    null: what domains that do not differ stay below.
    title: the finding.
  """
  with figure(path, width=7.2, height=4.2) as (_, axes):
    axes.axhspan(0, null, color=FAINT, alpha=0.5, lw=0)
    axes.text(
      steps[-1], null / 2, "no shift ", ha="right", va="center", color="#737373"
    )
    for colour, (name, values) in zip(CURVES, curves.items(), strict=False):
      mean, deviation = values.mean(1), values.std(1)
      axes.fill_between(
        steps,
        mean - deviation,
        np.minimum(mean + deviation, 2),
        color=colour,
        alpha=0.18,
        lw=0,
      )
      dashed = "--" if name == "target-only" else "-"
      axes.plot(steps, mean, color=colour, ls=dashed, label=name)
    axes.set(
      xlabel="training step",
      ylabel="H-divergence of the embeddings",
      title=title,
      xlim=(steps[0], steps[-1]),
      ylim=(0, 2.05),
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def accuracy_bars(
  path: Path,
  rates: Mapping[str, np.ndarray],
  oracles: Mapping[str, np.ndarray],
  *,
  kinds: Mapping[str, str],
  title: str,
) -> None:
  """Accuracies as bars with their 95 % intervals, and each seed as a dot.

  Args:
    path: of the PNG.
    rates: name -> rates `[seeds]`, from top to bottom.
    oracles: name -> rates with labels that the others did not have, `[seeds]`.
    kinds: name -> what it is one of, for its colour.
    title: the finding.
  """
  height = 1.5 + (0.5 if len(rates) < 12 else 0.26) * len(rates)
  with figure(path, width=7.2, height=height) as (canvas, axes):
    for i, (name, values) in enumerate(rates.items()):
      mean, low, high = paired_interval(values, np.zeros_like(values))
      colour = COLOURS[kinds[name]]
      axes.barh(i, mean, 0.62, color=colour, alpha=0.85, lw=0)
      axes.plot(values, np.full(len(values), i), ".", color=INK, alpha=0.35)
      if np.isfinite(low):
        axes.errorbar(
          mean,
          i,
          xerr=[[mean - low], [high - mean]],
          color=INK,
          capsize=4,
          lw=1.6,
        )
      edge = max(values.max(), high if np.isfinite(high) else mean)
      if name in oracles:
        oracle = oracles[name].mean()
        edge = max(edge, oracle)
        axes.plot(
          oracle,
          i,
          "D",
          mfc="white",
          mec=INK,
          ms=6,
          zorder=4,
          label="weight chosen with target labels"
          if name == next(iter(oracles))
          else None,
        )
      axes.text(edge + 0.02, i, f"{mean:.1%}", va="center")
    axes.axvline(
      rates["source-only"].mean(), color=COLOURS["bounds"], ls="--", lw=1.2
    )
    axes.set_yticks(range(len(rates)), rates)
    axes.set(
      xlabel="accuracy on target test images",
      title=title,
      xlim=(0, 1.08),
      ylim=(len(rates) - 0.4, -0.6),
    )
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(percent)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if oracles:
      canvas.legend(loc="outside lower right")


def embedding_scatter(
  path: Path,
  panels: Mapping[str, Sequence[np.ndarray]],
  labels: Sequence[np.ndarray],
  title: str,
) -> None:
  """Embeddings of two domains on their two principal components.

  Args:
    path: of the PNG.
    panels: name -> embeddings of source and target, `[n, d]` each.
    labels: classes of source and target, `[n]` each, for the colours only.
    title: the finding.
  """
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  size = {"width": 3.1 * columns, "height": 0.9 + 3.0 * rows}
  classes = np.unique(np.concatenate(labels))
  palette = matplotlib.color_sequences["tab10"]
  colours = [np.array(palette)[domain % len(palette)] for domain in labels]
  with figure(path, rows=rows, columns=columns, **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    flat = np.ravel(grid)
    for axes in flat:
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(False)
    for axes, (name, domains) in zip(flat, panels.items(), strict=False):
      pooled = np.concatenate(domains)
      centre = pooled.mean(0)
      _, _, directions = np.linalg.svd(pooled - centre, full_matrices=False)
      source, target = (
        (x - centre)[:SHOWN] @ directions[:2].T for x in domains
      )
      axes.scatter(*source.T, s=26, c=colours[0][:SHOWN], alpha=0.3, lw=0)
      axes.scatter(*target.T, s=26, c=colours[1][:SHOWN], marker="x", lw=1.3)
      axes.set_title(name, fontsize=10.5)
    marks = [
      Line2D(
        [], [], ls="", marker="o", color="#8c8c8c", alpha=0.5, label="source"
      ),
      Line2D([], [], ls="", marker="x", color=INK, label="target"),
      *(
        Line2D([], [], ls="", marker="s", color=palette[k % 10], label=str(k))
        for k in classes
      ),
    ]
    canvas.legend(
      handles=marks,
      loc="outside lower center",
      ncols=len(marks),
      columnspacing=1,
      handletextpad=0.2,
    )
