"""The figures of `experiments.compare`; each function saves one PNG."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from experiments.compare.cells import teacher_targets
from experiments.compare.job import cell_file
from experiments.frame import statistics
from experiments.frame.plots import BLUES
from experiments.frame.plots import COLOURS
from experiments.frame.plots import FAINT
from experiments.frame.plots import INK
from experiments.frame.plots import Path
from experiments.frame.plots import figure

SHOWN = 600  # points in a scatter plot


def draw(
  job: Any, pair: str, cells: dict[str, Any], gains: Mapping[str, Any]
) -> dict[str, str]:
  """Saves the figures of a pair; returns their captions by file name."""
  teacher, student = pair.split(":")
  stem = f"{teacher}_to_{student}"
  path = job.run.path
  intervals = {name: gain.interval for name, gain in gains.items()}
  if not intervals:
    return {}
  helped = sum(gain.interval.low > 0 for gain in gains.values())
  known = statistics.is_known(next(iter(intervals.values())))
  gain_bars(
    path / f"{stem}_gains.png",
    {name: gain.interval for name, gain in gains.items()},
    title=f"{helped} of {len(gains)} methods help {student}"
    if known
    else statistics.ONE_SEED.capitalize(),
  )
  best = choose(cells)
  part, labels = job.data.parts["test"], job.data.test_labels
  targets = [np.asarray(x[part]) for x in teacher_targets(job, teacher)]
  arrays = {
    name: np.load(cell_file(job, teacher, student, name).with_suffix(".npz"))
    for name in dict.fromkeys(("scratch", "kd", best))
  }
  embedding_maps(
    path / f"{stem}_embeddings.png",
    {
      f"teacher, {teacher}": targets[1][:SHOWN],
      **{
        name: arrays[name]["embedding"][:SHOWN]
        for name in dict.fromkeys(("scratch", best))
      },
    },
    labels[:SHOWN],
    title="What the last layer sees of test images",
  )
  answers = np.eye(job.data.classes)[labels]
  theirs = answers.T @ targets[0] / answers.sum(0)[:, None]
  differences = {
    name: np.abs(arrays[name]["class_logits"] - theirs).mean(0)
    for name in arrays
  }
  correlation_maps(
    path / f"{stem}_correlations.png",
    differences,
    title="How far the students' mean logits are from the teacher's",
  )
  return {
    f"{stem}_gains.png": "Gain in test accuracy over scratch at the last "
    "epoch, paired by seed, with 95 % intervals. The dashed line is plain KD.",
    f"{stem}_embeddings.png": "t-SNE of the embeddings of test images, first "
    "seed: the teacher, scratch and the method that is best on the validation "
    "images, or plain KD without any.",
    f"{stem}_correlations.png": "|student - teacher| of the mean logits of "
    "each class's test images, mean over the seeds, as mdistiller draws it; "
    "the diagonal is left out.",
  }


def has_validation(cells: dict[str, Any]) -> bool:
  """Whether images were held out to choose by."""
  return "validation" in cells["scratch"]["history"][0]


def choose(cells: dict[str, Any]) -> str:
  """The method that is best on validation images; plain KD without any."""
  if not has_validation(cells):
    return "kd"
  scores = {
    name: np.mean(cell["history"][-1]["validation"]["accuracy"])
    for name, cell in cells.items()
    if "test" in cell and name != "scratch"
  }
  return max(scores, key=lambda name: scores[name])


def gain_bars(
  path: Path, gains: Mapping[str, statistics.Interval], *, title: str
) -> None:
  """Gains as bars with intervals, the largest on top.

  Args:
    path: of the PNG.
    gains: name -> gain in points.
    title: the finding.
  """
  names = sorted(gains, key=lambda name: -gains[name].mean)
  # A method that fails would hide the differences of the others.
  ends = np.array([interval[1:] for interval in gains.values()])
  ends = np.append(ends[np.isfinite(ends)], [x.mean for x in gains.values()])
  scale = max(1.0, np.median(np.abs(ends)), *(x.mean for x in gains.values()))
  floor = max(-4 * scale, min(ends.min(), 0.0))
  ceiling = min(2 * scale, max(ends.max(), 0.0))
  margin = 0.02 * (ceiling - floor)
  size = {"width": 7.2, "height": 1.5 + 0.24 * len(names)}
  with figure(path, **size) as (canvas, axes):
    for i, name in enumerate(names):
      mean, low, high = gains[name]
      colour = "#8c8c8c"
      if low > 0:
        colour = COLOURS["distilled"]
      elif high < 0:
        colour = COLOURS["scratch"]
      axes.barh(i, mean, 0.7, color=colour, alpha=0.85, lw=0)
      if np.isfinite(low):
        axes.plot((low, high), (i, i), color=INK, lw=1.3)
        axes.plot((low, high), (i, i), "|", color=INK, ms=5)
      if mean < floor:
        text = f"◂ {mean:+.1f}"
        axes.text(0.99 * floor, i, text, va="center", fontsize=8, color="white")
    if "kd" in gains:
      axes.axvline(gains["kd"].mean, color=INK, ls="--", lw=1)
    axes.axvline(0, color="#8c8c8c", lw=1)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set(
      xlabel="gain over scratch, points of test accuracy",
      title=title,
      ylim=(len(names) - 0.4, -0.6),
      xlim=(floor - margin, ceiling + margin),
    )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    marks = {
      "helps": COLOURS["distilled"],
      "interval includes zero": "#8c8c8c",
      "hurts": COLOURS["scratch"],
    }
    canvas.legend(
      handles=[
        Line2D([], [], ls="", marker="s", color=colour, label=name)
        for name, colour in marks.items()
      ],
      loc="outside lower center",
      ncols=len(marks),
      fontsize=8.5,
    )


def embedding_maps(
  path: Path, panels: Mapping[str, np.ndarray], labels: np.ndarray, title: str
) -> None:
  """Embeddings on a plane by t-SNE, one panel a network.

  Args:
    path: of the PNG.
    panels: name -> embeddings `[n, d]`.
    labels: classes `[n]`, for the colours.
    title: the finding.
  """
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  palette = matplotlib.color_sequences["tab10"]
  classes = np.unique(labels)
  size = {"width": 3.1 * len(panels), "height": 3.9}
  with figure(path, columns=len(panels), **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    for axes, (name, points) in zip(
      np.ravel(grid), panels.items(), strict=True
    ):
      # A network that diverged has no embeddings to show.
      points = np.nan_to_num(points)
      perplexity = min(30.0, (len(points) - 1) / 3)
      plane = TSNE(perplexity=perplexity, init="random", random_state=0)
      with threadpool_limits(1):  # several wait for each other, tenfold
        places = plane.fit_transform(points)
      axes.scatter(
        *places.T,
        s=9,
        c=np.array(palette)[labels % len(palette)],
        alpha=0.7,
        lw=0,
      )
      axes.set(xticks=[], yticks=[])
      axes.set_title(name, fontsize=10.5)
      axes.spines[:].set_visible(False)
    if len(classes) <= len(palette):
      marks = [
        Line2D([], [], ls="", marker="o", color=palette[k], label=str(k))
        for k in classes
      ]
      canvas.legend(
        handles=marks,
        loc="outside lower center",
        ncols=len(marks),
        columnspacing=1,
        handletextpad=0.2,
      )


def correlation_maps(
  path: Path, differences: Mapping[str, np.ndarray], title: str
) -> None:
  """Differences of the classes' mean logits from the teacher's.

  Args:
    path: of the PNG.
    differences: name -> `[classes, classes]`, none of them negative.
    title: the finding.
  """
  off = {name: x.copy() for name, x in differences.items()}
  for x in off.values():
    np.fill_diagonal(x, 0)
  finite = [x[np.isfinite(x)].max(initial=0) for x in off.values()]
  size = {"width": 1.2 + 2.7 * len(off), "height": 3.7}
  with figure(path, columns=len(off), **size) as (canvas, grid):
    canvas.suptitle(title, x=0.015, ha="left")
    scale = matplotlib.cm.ScalarMappable(
      matplotlib.colors.Normalize(0, max(finite)), BLUES
    )
    for axes, (name, values) in zip(np.ravel(grid), off.items(), strict=True):
      axes.imshow(values, cmap=scale.cmap, norm=scale.norm)
      axes.set_title(f"{name}, mean {values.mean():.2f}", fontsize=10.5)
      axes.set(xlabel="logit of class")
      axes.grid(visible=False)
      axes.spines[:].set_visible(False)
      axes.tick_params(length=0)
    np.ravel(grid)[0].set_ylabel("images of class")
    bar = canvas.colorbar(scale, ax=grid, shrink=0.8)
    bar.outline.set_edgecolor(FAINT)
