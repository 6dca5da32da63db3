"""The table, the figures and the report of `experiments.diffuse`."""

from typing import Any

import numpy as np

from experiments.diffuse.methods import CONSISTENCY, NAMES, PROGRESSIVE, TEACHER
from experiments.frame import plots, statistics, tables

COLOURS = {
  TEACHER: plots.INK,
  PROGRESSIVE: plots.BLUE,
  CONSISTENCY: plots.RED,
}
MARKERS = {TEACHER: "o", PROGRESSIVE: "s", CONSISTENCY: "^"}


def write(job: Any, results: Any) -> None:
  """Draws the figures, writes report.md and prints the table."""
  steps = job.config.teacher_steps
  job.run.publish(
    job.console,
    f"A diffusion model of {job.config.dataset}, from {steps} steps to one",
    conclude(job, results),
    make_table(results),
    READING,
    setting(job, results),
    draw(job, results),
  )


def gains_of(results: Any) -> dict[str, statistics.Gain]:
  """How much nearer to real images than the teacher in as few steps.

  The name of one is the method's and the number of steps, "progressive 4".
  """
  treated, control = {}, {}
  for method, scores in results.distance.items():
    for steps, values in scores.items():
      if method != TEACHER and steps in results.distance[TEACHER]:
        treated[f"{method} {steps}"] = -values
        control[f"{method} {steps}"] = -results.distance[TEACHER][steps]
  return statistics.compare(treated, control)


def make_table(results: Any) -> tables.Table:
  """A row for each method and number of steps."""
  gains = gains_of(results)
  rows = [(k, n) for k, scores in results.agreement.items() for n in scores]
  columns = {
    "": lambda row: f"{NAMES[row[0]]}, {row[1]}",
    "recognized, %": lambda row: statistics.percent(
      results.agreement[row[0]][row[1]]
    ),
    "nearer than the teacher by (95 % interval)": lambda row: statistics.cell(
      gains, f"{row[0]} {row[1]}", scale=1, digits=2
    ),
    "Frechet distance": lambda row: statistics.mean_std(
      results.distance[row[0]][row[1]]
    ),
  }
  return tables.of_rows(rows, columns)


READING = (
  "Mean ± standard deviation over seeds. Recognized is the share of samples "
  "that the classifier takes for the class that they were asked for. The "
  "Frechet distance (its square) is between the classifier's embeddings of "
  "samples and of training images; smaller is better. The verdict is on the "
  "distance, against the teacher's own sampling in as few steps: mean images "
  f"of classes are recognized too. {statistics.LEGEND}"
)


def conclude(job: Any, results: Any) -> list[str]:
  """The findings, in words."""
  full = job.config.teacher_steps
  teacher = results.agreement[TEACHER]
  distance = results.distance[TEACHER]
  texts = [
    f"The teacher in {full} steps: {teacher[full].mean():.1%} of samples "
    f"recognized, Frechet distance {distance[full].mean():.2f}; real test "
    f"images: {results.judged.mean():.1%} and {results.real.mean():.2f}. In "
    f"one step: {teacher[1].mean():.1%} and {distance[1].mean():.2f}."
  ]
  gains = gains_of(results)
  for method in (PROGRESSIVE, CONSISTENCY):
    if method not in results.agreement:
      continue
    parts = [
      f"{n}: {x.mean():.1%}, distance {results.distance[method][n].mean():.2f}"
      for n, x in sorted(results.agreement[method].items())
      if n <= 4
    ]
    clear = [
      str(n)
      for n in results.agreement[method]
      if f"{method} {n}" in gains and gains[f"{method} {n}"].verdict == "helped"
    ]
    text = f"{NAMES[method].capitalize()}, by steps: {'; '.join(parts)}. "
    if any(x.verdict == "unknown" for x in gains.values()):
      text += f"{statistics.TOO_FEW.capitalize()}."
    else:
      text += (
        "Clearly nearer to real images than the teacher in as many steps: "
        f"{', '.join(clear) or 'never'}."
      )
    texts.append(text)
  return texts


def setting(job: Any, results: Any) -> str:
  """The images and the training, in words."""
  config, data = job.config, job.data
  return (
    "## The setting\n\n"
    f"The denoiser has three residual layers of {config.width} units and "
    "predicts v for a noise level and a class; it took "
    f"{config.steps} steps of Adam (learning rate {config.learning_rate:g}, "
    f"falling to 0) on batches of {config.batch_size} of "
    f"{len(data.train['label'])} images, with the weight of v. Noise levels "
    "are those of the cosine schedule. A phase of progressive distillation "
    f"took {config.phase_steps} steps with a new optimizer, started from its "
    "teacher's weights and has the truncated signal-to-noise weight. "
    f"Consistency distillation took {config.steps} steps from the teacher's "
    f"weights over {config.levels} noise levels with Heun's solver; its target "
    f"is an average (decay {config.target_decay:g}), which also samples. "
    f"Scores are of {config.samples} samples of all classes. The classifiers "
    f"recognize {statistics.percent(results.judged)} % of the "
    f"{len(data.test['label'])} test images, which chose nothing; no choice "
    "was made by the quality of samples either."
  )


def draw(job: Any, results: Any) -> dict[str, str]:
  """Saves the figures: quality against steps, and samples."""
  run, full = job.run.path, job.config.teacher_steps
  one = {k: x[1].mean() for k, x in results.distance.items() if 1 in x}
  best = min(one, key=lambda name: one[name])
  title = f"In one step {NAMES[best]} is nearest to real images"
  path = run / "steps.png"
  with plots.figure(path, title=title, columns=2, width=10.0, height=4.6) as (
    left,
    right,
  ):
    for axes, scores in ((left, results.agreement), (right, results.distance)):
      for method, values in scores.items():
        steps = sorted(values)
        plots.band(
          axes,
          np.array(steps),
          np.stack([values[n] for n in steps]),
          NAMES[method],
          COLOURS[method],
          marker=MARKERS[method],
        )
      axes.set_xscale("log", base=2)
      ticks = [full >> i for i in range(full.bit_length())]
      axes.set_xticks(ticks, [str(x) for x in ticks])
      axes.set_xlabel("steps of sampling")
    left.axhline(results.judged.mean(), color=plots.GREY, ls="--", lw=1.2)
    right.axhline(results.real.mean(), color=plots.GREY, ls="--", lw=1.2)
    left.set_ylabel("samples recognized as their class")
    left.yaxis.set_major_formatter(plots.percent)
    right.set_ylabel("Frechet distance to real images")
    right.set_yscale("log")
    handles = [*left.get_legend_handles_labels()[0]]
    plots.legend(
      left, [*handles, plots.line("real test images", plots.GREY, "--")]
    )
  captions = {
    path.name: "Quality against the number of steps of sampling: the share of "
    "samples that the classifier recognizes, and the Frechet distance of its "
    "features. Means over seeds in a band of one standard deviation."
  }
  return captions | _draw_samples(job, results)


def _draw_samples(job: Any, results: Any) -> dict[str, str]:
  """A row of samples for some of the methods, a column for each class."""
  full = job.config.teacher_steps
  wanted = [(TEACHER, full), (TEACHER, 4), (TEACHER, 1)]
  wanted += [(PROGRESSIVE, 4), (PROGRESSIVE, 1), (CONSISTENCY, 1)]
  titles = [f"{NAMES[method]}, {n}" for method, n in wanted]
  titles = [x for x in dict.fromkeys(titles) if x in results.images]
  pixels = next(iter(results.images.values()))
  count = len(pixels)
  side = round(pixels.shape[-1] ** 0.5)
  if side * side != pixels.shape[-1]:  # images of several channels
    return {}
  path = job.run.path / "samples.png"
  size = {"width": 2.6 + 0.5 * count, "height": 0.7 + 0.55 * len(titles)}
  with plots.figure(
    path, title="Samples of each class", rows=len(titles), columns=count, **size
  ) as grid:
    every = np.ravel(grid).reshape(len(titles), count)
    for line, title in zip(every, titles, strict=True):
      for axes, image in zip(line, results.images[title], strict=True):
        axes.imshow(image.reshape(side, side), cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        plots.blank(axes)
      line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
  caption = (
    "The first sample of each class of the first seed, without a choice; the "
    "number is that of steps. Each row starts from the same noise."
  )
  return {path.name: caption}
