"""The figures of `experiments.adapt`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.adapt.methods import GROUP_OF
from experiments.adapt.methods import NAMES
from experiments.frame import plots
from experiments.frame import statistics

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
SHOWN = 4  # methods in the curves and scatter plots, the best on test images
POINTS = 200  # of a domain in a scatter plot; more would hide each other


def draw(
  job: Any, rows: dict[str, Any], gains: Mapping[str, statistics.Gain]
) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path = job.config, job.run.path
  named = {NAMES[method]: row for method, row in rows.items()}
  weighed = {name: row for name, row in named.items() if row.weight is not None}
  plots.accuracy_bars(
    path / "accuracy.png",
    {name: row.test_accuracy for name, row in named.items()},
    groups={NAMES[method]: GROUP_OF[method] for method in rows},
    colours=KINDS,
    oracles={name: row.oracle_accuracy for name, row in weighed.items()},
    oracle_label="weight chosen with target labels",
    reference=NAMES["source_only"],
    title=statistics.headline(gains, NAMES, "source-only"),
  )
  ranked = sorted(gains, key=lambda method: -gains[method].mean)
  ranked = [NAMES[method] for method in ranked]
  best, hidden = ranked[:SHOWN], ranked[SHOWN:]
  shown = {name: row for name, row in named.items() if name not in hidden}
  curves = {name: x.validation["divergence"] for name, x in shown.items()}
  nearest = min(best, key=lambda name: curves[name][-1].mean())
  divergence_curves(
    path / "divergence.png",
    config.evaluate_every * np.arange(1, len(curves[nearest]) + 1),
    curves,
    null=max(row.null for row in rows.values()),
    title=f"{nearest} brings the domains closest, to a d_H of "
    f"{curves[nearest][-1].mean():.2f}",
  )
  labels = np.asarray(job.data.validation["label"])
  labels = np.split(labels, job.data.validation_sizes[:1])
  plots.embedding_maps(
    path / "embeddings.png",
    {
      f"{name}, d_H {curves[name][-1, 0]:.2f}": planes(row.embeddings, labels)
      for name, row in shown.items()
    },
    markers={
      "source": {"s": 26, "alpha": 0.3, "lw": 0},
      "target": {"s": 26, "marker": "x", "lw": 1.3},
    },
    title="Embeddings of both domains, coloured by class",
  )
  return {
    "accuracy.png": "Accuracy on target test images: means with 95 % "
    "intervals, and each seed as a dot. Diamonds: had the weight been chosen "
    "with target labels. Dashed: source-only.",
    "divergence.png": "H-divergence of the embeddings of validation images: "
    "mean over seeds in a band of one standard deviation; of at most "
    f"{SHOWN} methods, the best on test images.",
    "embeddings.png": "The first seed's embeddings of validation images on "
    f"their two principal components, up to {POINTS} of each domain. Target "
    "labels are used for the colours only.",
  }


def divergence_curves(
  path: plots.Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  null: float,
  title: str,
) -> None:
  """H-divergence `[evaluations, seeds]` over steps; `null` is of no shift."""
  with plots.figure(path, title=title, width=7.2, height=4.6) as axes:
    axes.axhspan(0, null, color=plots.FAINT, alpha=0.5, lw=0)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right"}
    axes.text(0.99, null / 2, "no shift", va="center", color="#737373", **place)
    for colour, (name, values) in zip(
      plots.SERIES, curves.items(), strict=False
    ):
      style = "--" if name == "target-only" else "-"
      plots.band(axes, steps, values, name, colour, ls=style, marker=".")
    # One evaluation alone is a point in the middle.
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (0, 2 * steps[0])
    axes.set(xlabel="training step", xlim=ends, ylim=(0, 2.05))
    axes.set_ylabel("H-divergence of the embeddings")
    plots.legend(axes)


def planes(
  domains: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Embeddings `[n, d]` on two common principal components, with labels."""
  pooled = np.concatenate(domains)
  centre = pooled.mean(0)
  _, _, directions = np.linalg.svd(pooled - centre, full_matrices=False)
  return [
    ((x - centre)[:POINTS] @ directions[:2].T, y[:POINTS])
    for x, y in zip(domains, labels, strict=True)
  ]
