"""The figures of `experiments.compare`; each function saves one PNG."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np

from experiments.compare.cells import teacher_targets
from experiments.compare.job import stem
from experiments.frame import plots, statistics

SHOWN = 600  # points in a scatter plot
LABELS = {
  "helped": "better than scratch",
  "unclear": "not clearly different",
  "hurt": "worse than scratch",
  "unknown": statistics.TOO_FEW,
}


def draw(
  job: Any,
  pair: str,
  cells: dict[str, Any],
  gains: Mapping[str, statistics.Gain],
) -> dict[str, str]:
  """Saves the figures of a pair; returns their captions by file name."""
  if not gains:
    return {}
  teacher, path = pair.split(":")[0], job.run.path
  start, best = stem(pair), choose(cells)
  gain_bars(path / f"{start}_gains.png", gains)
  part, labels = job.data.parts["test"], job.data.test_labels
  targets = teacher_targets(job, teacher)
  logits, embedding = (np.asarray(x[part]) for x in targets)
  arrays = {
    name: np.load(job.cell_file(pair, name).with_suffix(".npz"))
    for name in dict.fromkeys(("scratch", "kd", best))
  }
  embeddings = {f"teacher, {teacher}": embedding}
  embeddings |= {x: arrays[x]["embedding"] for x in ("scratch", best)}
  plots.embedding_maps(
    path / f"{start}_embeddings.png",
    {
      name: [(plane_of(points[:SHOWN]), labels[:SHOWN])]
      for name, points in embeddings.items()
    },
    markers={"": {"s": 9, "alpha": 0.7, "lw": 0}},
    title="Embeddings of test images",
  )
  answers = np.eye(job.data.classes)[labels]
  theirs = answers.T @ logits / answers.sum(0)[:, None]
  gaps = {k: np.abs(x["class_logits"] - theirs) for k, x in arrays.items()}
  correlation_maps(path / f"{start}_correlations.png", gaps)
  return {
    f"{start}_gains.png": "Gain in test accuracy over scratch at the last "
    "epoch, paired by seed, with 95 % intervals. The dashed line is plain KD.",
    f"{start}_embeddings.png": "t-SNE of the embeddings of test images, first "
    "seed: the teacher, scratch and the method that is best on the validation "
    "images, or plain KD without any.",
    f"{start}_correlations.png": "|student - teacher| of the mean logits of "
    "each class's test images, mean over the seeds, as mdistiller draws it. "
    "The diagonal (grey) is left out of the colours and of the mean.",
  }


def choose(cells: dict[str, Any]) -> str:
  """The method that is best on validation images; plain KD without any."""
  if "validation" not in cells["scratch"]["history"][0]:
    return "kd"
  scores = {
    name: np.mean(cell["history"][-1]["validation"]["accuracy"])
    for name, cell in cells.items()
    if "test" in cell and name != "scratch"
  }
  return max(scores, key=lambda name: scores[name])


def gain_bars(path: plots.Path, gains: Mapping[str, statistics.Gain]) -> None:
  """Gains as bars with intervals, the largest on top."""
  verdicts = [gain.verdict for gain in gains.values()]
  helped = f"{verdicts.count('helped')} of {len(gains)}"
  title = f"{helped} methods are clearly better than scratch"
  if "unknown" in verdicts:
    title = statistics.TOO_FEW.capitalize()
  names = sorted(gains, key=lambda name: -gains[name].mean)
  means = {name: 100 * gains[name].mean for name in names}
  ends = {
    name: (100 * gain.low, 100 * gain.high)
    for name, gain in gains.items()
    if gain.low is not None and gain.high is not None
  }
  # A method that fails would hide the differences of the others.
  drawn = [*means.values(), *(x for pair in ends.values() for x in pair)]
  scale = max(1.0, np.median(np.abs(drawn)), *means.values())
  floor = max(-4 * scale, min(*drawn, 0.0))
  ceiling = min(2 * scale, max(*drawn, 0.0))
  margin = 0.02 * (ceiling - floor)
  size = {"width": 7.2, "height": 1.7 + 0.24 * len(names)}
  with plots.figure(path, title=title, **size) as axes:
    for i, name in enumerate(names):
      colour = plots.VERDICTS[gains[name].verdict]
      axes.barh(i, means[name], 0.7, color=colour, alpha=0.85, lw=0)
      if name in ends:
        style = {"color": plots.INK, "lw": 1.3, "marker": "|", "ms": 5}
        axes.plot(ends[name], (i, i), **style)
      if means[name] < floor:
        text = f"◂ {means[name]:+.1f}"
        axes.text(0.99 * floor, i, text, va="center", fontsize=8, color="white")
      if name in ends and ends[name][1] > ceiling:
        axes.text(ceiling, i, "▸", va="center", ha="right", fontsize=8)
    axes.axvline(0, color=plots.GREY, lw=1)
    plots.name_rows(axes, names, fontsize=8.5)
    axes.set_xlabel("gain over scratch, points of test accuracy")
    axes.set_xlim(floor - margin, ceiling + margin)
    handles = [
      plots.mark(label, plots.VERDICTS[verdict])
      for verdict, label in LABELS.items()
      if verdict in verdicts
    ]
    if "kd" in gains:
      line = axes.axvline(means["kd"], color=plots.INK, ls="--", lw=1)
      line.set_label("plain KD")
      handles.append(line)
    plots.legend(axes, handles)


def plane_of(points: np.ndarray) -> np.ndarray:
  """The t-SNE of embeddings `[n, d]` on a plane."""
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  perplexity = min(30.0, (len(points) - 1) / 3)
  tsne = TSNE(perplexity=perplexity, init="random", random_state=0)
  with threadpool_limits(1):  # several wait for each other, tenfold
    # A network that diverged has no embeddings to show.
    return tsne.fit_transform(np.nan_to_num(points))


def correlation_maps(
  path: plots.Path, distances: Mapping[str, np.ndarray]
) -> None:
  """Distances `[seeds, classes, classes]` of mean logits from the teacher's."""
  # NaN is drawn in the color of the axes, not as no difference.
  off = {
    name: np.where(np.eye(x.shape[-1]), np.nan, x.mean(0))
    for name, x in distances.items()
  }
  finite = [x[np.isfinite(x)].max(initial=1e-6) for x in off.values()]
  size = {"width": 1.2 + 2.7 * len(off), "height": 3.9}
  title = "Distance of the students' mean logits from the teacher's"
  with plots.figure(path, title=title, columns=len(off), **size) as grid:
    scale = matplotlib.cm.ScalarMappable(
      matplotlib.colors.Normalize(0, max(finite)), plots.BLUES
    )
    for axes, (name, values) in zip(np.ravel(grid), off.items(), strict=True):
      axes.set_facecolor(plots.FAINT)
      axes.imshow(values, cmap=scale.cmap, norm=scale.norm)
      seen = values[np.isfinite(values)]
      mean = f"{seen.mean():.2f}" if seen.size else "diverged"
      axes.set_title(f"{name}, mean {mean}")
      axes.set(xlabel="logit of class")
      plots.blank(axes)
    np.ravel(grid)[0].set_ylabel("images of class")
    bar = grid[0].figure.colorbar(scale, ax=grid, shrink=0.8)
    bar.outline.set_edgecolor(plots.FAINT)
