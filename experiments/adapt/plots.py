"""The parts of the figures of `experiments.adapt`."""

from collections.abc import Mapping, Sequence

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
  """H-divergence `[evaluations, seeds]` over the steps of training.

  `null` is its upper end between domains that do not differ.
  """
  with plots.figure(path, title=title, width=7.2, height=4.6) as axes:
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
    plots.legend(axes, axes.get_legend_handles_labels()[0])


def planes_of(domains: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Embeddings `[n, d]` of domains on their common two principal components."""
  pooled = np.concatenate(domains)
  centre = pooled.mean(0)
  _, _, directions = np.linalg.svd(pooled - centre, full_matrices=False)
  return [(x - centre)[:POINTS] @ directions[:2].T for x in domains]
