"""The tables, the figures and the report of `experiments.cross_modal`."""

from typing import Any

import numpy as np

from experiments.cross_modal import captions, gaussians, methods
from experiments.cross_modal.methods import ALL, NAMES, SCRATCH
from experiments.frame import plots, statistics, tables

Rows = dict[str, dict[str, np.ndarray]]
Points = dict[str, np.ndarray]  # row -> accuracies `[points, runs]`
AUTHORS = 10  # runs with the data of the authors' seeds
SCORES = {
  "captions": {
    "zero_shot": "zero-shot, %",
    "image_to_text": "image to text, %",
    "text_to_image": "text to image, %",
  }
}
ACCURACY = {"accuracy": "accuracy, %"}


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the tables."""
  findings: list[str] = []
  parts: list[Any] = []
  figures: dict[str, str] = {}
  found = dict(results)
  if "gaussians" in found:
    rows = found.pop("gaussians")
    findings += conclude_gaussians(rows, job.config)
    parts += ["## Gaussians", *map(gaussian_table, rows.items())]
    parts.append(gaussian_setting(job.config))
    figures |= draw_gaussians(job, rows)
  for task, rows in found.items():
    findings += conclude(task, rows)
    title = methods.TASKS[task]
    parts.append(f"## {title[0].upper()}{title[1:]}")
    parts += [make_table(task, rows), setting(job, task)]
  if found:
    parts.append(READING)
    figures |= draw_pairs(job, found)
  job.run.publish(
    job.console,
    f"From one modality to another: {', '.join(results)}",
    findings,
    *parts,
    figures,
  )


def gain_at(rows: Points, point: int) -> statistics.Gain:
  """KD's gain over the same student without it."""
  return statistics.gain_of(rows["kd"][point], rows["scratch"][point])


def gaussian_table(item: tuple[str, Points]) -> tables.Table:
  """A row for each point of an experiment."""
  name, rows = item
  _, points = gaussians.POINTS[name]
  reference = gaussians.REFERENCE[name]
  # Holm's correction over the points of the experiment.
  gains = statistics.compare(
    {str(i): rows["kd"][i] for i in range(len(points))},
    {str(i): rows["scratch"][i] for i in range(len(points))},
  )

  def own(i: int) -> str:
    gain = rows["kd"][i] - rows["scratch"][i]
    return f"{100 * gain[:AUTHORS].mean():+.2f}"

  columns = {
    "gamma" if name == "shared" else "alpha": lambda i: (
      f"{gaussians.level(name, points[i]):.2f}"
    ),
    "teacher, %": lambda i: statistics.percent(rows["teacher"][i]),
    "from scratch, %": lambda i: statistics.percent(rows["scratch"][i]),
    "KD, %": lambda i: statistics.percent(rows["kd"][i]),
    "gain (95 % interval)": lambda i: gains[str(i)].cell(digits=2),
    f"first {AUTHORS} runs": own,
    "reference": lambda i: f"{reference[i]:+.2f}",
    "more data, %": lambda i: statistics.percent(rows["many"][i]),
  }
  return tables.of_rows(range(len(points)), columns, shown=(0, 1, 4, 5, 6))


def conclude_gaussians(rows: dict[str, Points], config: Any) -> list[str]:
  """The findings on both experiments, in words."""
  texts = []
  authors = config.seed == 0 and config.gaussian_runs >= AUTHORS
  for name, part in rows.items():
    _, points = gaussians.POINTS[name]
    gains = [100 * gain_at(part, i).mean for i in range(len(points))]
    apart = max(
      abs(100 * (part["kd"][i] - part["scratch"][i])[:AUTHORS].mean() - x)
      for i, x in enumerate(gaussians.REFERENCE[name])
    )
    ends = f"{gains[0]:+.2f} to {gains[-1]:+.2f} points"
    teacher = [f"{part['teacher'][i].mean():.1%}" for i in (0, -1)]
    if name == "shared":
      text = (
        f"Gaussians: KD's gain goes from {ends} as the modalities share more "
        f"of the decisive features; the teacher's accuracy from {teacher[0]} "
        f"to {teacher[1]}."
      )
    else:
      text = (
        f"Gaussians: the teacher rises from {teacher[0]} to {teacher[1]} by "
        f"dimensions that the student lacks, and KD's gain goes from {ends}."
      )
    if authors:
      text += (
        f" On the authors' data the gains are within {apart:.2f} points of the "
        "reference."
      )
    texts.append(text)
  return texts


def gaussian_setting(config: Any) -> str:
  """The Gaussians and the training, in words."""
  return (
    "Mean ± standard deviation of test accuracy over "
    f"{config.gaussian_runs} runs. {statistics.LEGEND.replace('method', 'row')}"
    f" The label of an example is the side of a random hyperplane. The student "
    "sees 50 dimensions, 10 of which decide. Gamma: the teacher sees 25, 10 of "
    "which decide, and gamma is the share of the deciding dimensions of both "
    "that both see. Alpha: the teacher sees the student's 10 and more, and "
    "alpha is the share of its deciding dimensions that the student lacks. "
    f"Linear models, {gaussians.TRAIN} examples, {config.gaussian_steps} "
    f"steps of gradient descent at {gaussians.RATE:g}; KD adds "
    f"{gaussians.KL_WEIGHT:g} of the divergence at T = 1. The reference "
    "is the gain of ten seeds in a port of the authors' code to NumPy, on the "
    "data of the first ten runs of seed 0; initial weights differ. *More data* "
    "has "
    f"{gaussians.MANY} times the examples."
  )


def finals(rows: Rows, score: str) -> dict[str, np.ndarray]:
  """A score after the last step, `[seeds]`, by method."""
  return {name: seen[score][-1] for name, seen in rows.items()}


def gains_of(scores: dict[str, np.ndarray]) -> dict[str, statistics.Gain]:
  """The gains over training from scratch."""
  students = {k: x for k, x in scores.items() if k != "teacher"}
  return statistics.compare_bounded(students, SCRATCH, ALL)


def make_table(task: str, rows: Rows) -> tables.Table:
  """A row for each method, two columns for each score."""
  columns: dict[str, Any] = {"": lambda name: NAMES[name]}
  for score, title in SCORES.get(task, ACCURACY).items():
    values = finals(rows, score)
    gains = gains_of(values)
    columns[title] = lambda name, x=values: statistics.percent(x[name])
    columns[f"gain of {title.removesuffix(', %')} (95 % interval)"] = (
      lambda name, x=gains: statistics.cell(x, name)
    )
  return tables.of_rows(rows, columns, title=methods.TASKS[task])


READING = (
  "Mean ± standard deviation over seeds, in percent of test pairs after the "
  f"last step; gains are over training from scratch. {statistics.LEGEND} The "
  "last row is an upper bound, and the teacher's own score is of its own "
  "modality."
)


def conclude(task: str, rows: Rows) -> list[str]:
  """The findings on a task of pairs, in words."""
  texts = []
  for score, title in SCORES.get(task, ACCURACY).items():
    values = finals(rows, score)
    gains = {k: x for k, x in gains_of(values).items() if k != ALL}
    label = f"{task}, {title.removesuffix(', %')}"
    teacher, base, bound = (
      f"{values[name].mean():.1%}" for name in ("teacher", SCRATCH, ALL)
    )
    found = statistics.findings(gains, NAMES, "training from scratch")
    texts.append(
      f"{label[0].upper()}{label[1:]}: teacher {teacher}, student from scratch "
      f"{base}, with all pairs {bound}. {' '.join(found)}"
    )
  return texts


def setting(job: Any, task: str) -> str:
  """The pairs and the training of a task, in words."""
  config, pairs = job.config, job.data[task]
  count = len(pairs.train["label"])
  text = (
    f"Teachers learned from all {count} training pairs of {config.dataset}, "
    f"and students from {pairs.few.shape[1]} of them, "
    f"{config.examples_per_class} of each class, drawn by the seed. Each "
    f"network took {config.steps} steps of Adam (learning rate "
    f"{config.learning_rate:g}) on batches of {config.batch_size}. A student "
    "of seed i has the same initial weights in every row. Weights are those of "
    f"`kdjax.methods.create`. The {len(pairs.test['label'])} test pairs chose "
    "nothing. "
  )
  extra = {
    "halves": "The teacher sees the left half of an image, the student the "
    "right one.",
    "spoken": "The teacher sees an image, the student the log-spectrogram of a "
    f"word of the same digit, in noise, by {_speaker(config.sounds)}; voices "
    "of test sounds speak no training sound.",
    "captions": f"A caption is one of {len(captions.CAPTIONS)}, such as "
    f'"{captions.CAPTIONS[-3]}": its digit, and the thirds of training images '
    "in which its ink and its slant are. Retrieval is right if the caption is, "
    "among those of test images. Zero-shot: the digit whose captions have the "
    "nearest mean embedding. The teacher's learned scale is the one of its "
    "similarities.",
  }
  if task != "captions" and methods.UNLABELED in config.methods:
    text += (
      "KD without labels sees the pairs whose labels its teacher learned. "
    )
  return text + extra[task]


def _speaker(kind: str) -> str:
  return "espeak-ng" if kind == "espeak" else "synthetic vowels of two formants"


def draw_gaussians(job: Any, rows: dict[str, Points]) -> dict[str, str]:
  """Saves the figure of the Gaussians: gain against shared information."""
  path = job.run.path / "shared_information.png"
  shared, more = rows["shared"], rows["more"]
  first, last = (gain_at(shared, i).mean for i in (0, -1))
  title = (
    f"KD across modalities: {100 * first:+.1f} points where nothing is shared, "
    f"{100 * last:+.1f} where all is"
  )
  with plots.figure(
    path, title=title, columns=2, width=9.6, height=4.4
  ) as axes:
    left, right = axes
    places = {
      "shared": [
        gaussians.level("shared", x) for x in gaussians.POINTS["shared"][1]
      ],
      "more": more["teacher"].mean(1),
    }
    for name, axis in (("shared", left), ("more", right)):
      part, x = rows[name], np.asarray(places[name])
      points = 100 * (part["kd"] - part["scratch"])
      mean = points.mean(1)
      for place, values in zip(x, points, strict=True):
        if ends := statistics.interval(values):
          axis.plot((place, place), ends, color=plots.BLUE, lw=1.5)
      axis.plot(
        x, mean, "o-", color=plots.BLUE, label=f"{points.shape[1]} runs"
      )
      axis.plot(
        x,
        gaussians.REFERENCE[name],
        "D",
        mfc="white",
        mec=plots.INK,
        label="reference, 10 seeds",
      )
      axis.axhline(0, color=plots.DARK, lw=1)
    left.set(xlabel="shared information (gamma)", ylabel="gain of KD, points")
    right.set(xlabel="accuracy of the teacher", ylabel="gain of KD, points")
    right.xaxis.set_major_formatter(plots.percent)
    plots.legend(left)
  caption = (
    "Gain of a linear student by KD from another modality, with 95 % "
    "intervals. Left: against the share of deciding dimensions that both "
    "modalities see. Right: against the accuracy of a teacher that sees ever "
    "more dimensions that the student lacks."
  )
  return {path.name: caption}


def draw_pairs(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figure of real pairs: a panel for each task."""
  path, first = job.run.path / "pairs.png", next(iter(results))
  panels = []
  for task, rows in results.items():
    score = next(iter(SCORES.get(task, ACCURACY)))
    panels.append((task, score, finals(rows, score)))
  gains = gains_of(panels[0][2])
  title = f"{first[0].upper()}{first[1:]}: " + statistics.headline(
    {k: x for k, x in gains.items() if k != ALL}, NAMES, "training from scratch"
  )
  height = 1.5 + 0.33 * max(len(values) for _, _, values in panels)
  width = 4.6 * len(panels)
  with plots.figure(
    path, title=title, columns=len(panels), width=width, height=height
  ) as grid:
    for axes, (task, score, values) in zip(np.ravel(grid), panels, strict=True):
      verdicts = {k: x.verdict for k, x in gains_of(values).items()}
      for i, (name, x) in enumerate(values.items()):
        colour = plots.VERDICTS.get(verdicts.get(name, ""), plots.DARK)
        if name in (SCRATCH, ALL, "teacher"):
          colour = plots.DARK
        axes.plot(x, np.full(len(x), i), ".", color=colour, alpha=0.4)
        if ends := statistics.interval(x):
          axes.plot(np.clip(ends, 0, 1), (i, i), color=colour, lw=1.5)
        axes.plot(x.mean(), i, "o", color=colour, ms=6)
      axes.axvline(values[SCRATCH].mean(), color=plots.DARK, ls="--", lw=1)
      plots.name_rows(axes, [NAMES[name] for name in values], fontsize=8.5)
      axes.set_title(task)
      axes.set(xlabel=score.replace("_", "-"))
      axes.xaxis.set_major_formatter(plots.percent)
    plots.legend(
      grid,
      [
        plots.mark("clearly better than from scratch", plots.BLUE, "o"),
        plots.mark("clearly worse", plots.RED, "o"),
        plots.mark("no clear difference", plots.GREY, "o"),
        plots.line("from scratch", plots.DARK, "--"),
      ],
    )
  caption = (
    "Test accuracy of every row of each task (of captions: zero-shot), with 95 "
    "% intervals; a dot is a seed."
  )
  return {path.name: caption}
