"""The figures of `experiments.adapt`; each function saves one PNG."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from experiments.frame import plots

# One color for each kind of method.
KINDS = {
  "bounds": plots.DARK,
  "discrepancy": plots.GREEN,
  "adversarial": plots.BLUE,
  "predictions": plots.ORANGE,
  "self-training": plots.PINK,
  "inputs": plots.SKY,
  "instance weights": plots.BROWN,
  "closed-form maps": plots.GREY,
}
POINTS = 200  # of a domain in a scatter plot; more would hide each other


def divergence_curves(
  path: plots.Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  null: float,
  title: str,
) -> None:
  """H-divergence over the steps of training.

  Args:
    path: of the PNG.
    steps: `[evaluations]`.
    curves: name -> d_H `[evaluations, seeds]`.
    null: the upper end of d_H between domains that do not differ.
    title: the finding.
  """
  with plots.figure(path, title=title, width=7.2, height=4.6) as (canvas, axes):
    axes.axhspan(0, null, color=plots.FAINT, alpha=0.5, lw=0)
    axes.text(
      0.99,
      null / 2,
      "no shift",
      ha="right",
      va="center",
      color="#737373",
      transform=axes.get_yaxis_transform(),
    )
    for colour, (name, values) in zip(
      plots.SERIES, curves.items(), strict=False
    ):
      style = "--" if name == "target-only" else "-"
      plots.band(axes, steps, values, name, colour, ls=style, marker=".")
    # One evaluation alone is a point in the middle.
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (0, 2 * steps[0])
    axes.set(
      xlabel="training step",
      ylabel="H-divergence of the embeddings",
      xlim=ends,
      ylim=(0, 2.05),
    )
    plots.legend(canvas, axes.get_legend_handles_labels()[0])


def embedding_scatter(
  path: plots.Path,
  panels: Mapping[str, Sequence[np.ndarray]],
  labels: Sequence[np.ndarray],
  title: str,
) -> None:
  """Embeddings of both domains on their two principal components.

  Args:
    path: of the PNG.
    panels: name -> embeddings of source and target, `[n, d]` each.
    labels: classes of source and target, `[n]` each, for the colors only.
    title: the finding.
  """
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  size = {"width": 3.1 * columns, "height": 1.1 + 3.0 * rows}
  palette = matplotlib.color_sequences["tab10"]
  colours = [np.array(palette)[domain % len(palette)] for domain in labels]
  with plots.figure(path, title=title, rows=rows, columns=columns, **size) as (
    canvas,
    grid,
  ):
    for axes in np.ravel(grid):
      axes.set(xticks=[], yticks=[])
      plots.blank(axes)
    for axes, (name, domains) in zip(
      np.ravel(grid), panels.items(), strict=False
    ):
      pooled = np.concatenate(domains)
      centre = pooled.mean(0)
      _, _, directions = np.linalg.svd(pooled - centre, full_matrices=False)
      source, target = (
        (x - centre)[:POINTS] @ directions[:2].T for x in domains
      )
      axes.scatter(*source.T, s=26, c=colours[0][:POINTS], alpha=0.3, lw=0)
      axes.scatter(*target.T, s=26, c=colours[1][:POINTS], marker="x", lw=1.3)
      axes.set_title(name)
    marks = [
      plots.mark("source", plots.GREY, "o", alpha=0.5),
      plots.mark("target", plots.INK, "x"),
      *(
        plots.mark(str(k), palette[k % 10])
        for k in np.unique(np.concatenate(labels))
      ),
    ]
    plots.legend(canvas, marks)
