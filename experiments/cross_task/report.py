"""The tables, the figure and the report of `experiments.cross_task`."""

from typing import Any

import numpy as np

from experiments.cross_task.methods import ALL_LABELS, NAMES, SCRATCH, TEACHER
from experiments.cross_task.training import Results
from experiments.frame import plots, statistics, tables

Rows = dict[str, dict[str, np.ndarray]]
COLOURS = dict(
  zip(
    NAMES,
    (plots.INK, *plots.SERIES[: len(NAMES) - 3], plots.BROWN, plots.GREY),
    strict=True,
  )
)


def write(job: Any, results: Results) -> None:
  """Draws the figure, writes report.md and prints the tables."""
  job.run.publish(
    job.console,
    f"Teachers of other classes, {job.config.dataset}",
    conclude(job, results),
    "## New classes",
    new_table(results),
    "## All classes",
    union_table(results),
    READING,
    setting(job, results),
    draw(job, results),
  )


def best(rows: Rows) -> dict[str, np.ndarray]:
  """The accuracy of each row: of the classifier, or the nearest mean."""
  return {
    name: x["accuracy"] if "accuracy" in x else x["nearest"]
    for name, x in rows.items()
  }


def gains_of(
  scores: dict[str, np.ndarray],
) -> dict[str, statistics.Gain]:
  """The gains over training from scratch; bounds have no correction."""
  own = {k: x for k, x in scores.items() if k != TEACHER}
  gains = statistics.compare_bounded(own, SCRATCH, ALL_LABELS)
  if TEACHER in scores:
    gain = statistics.gain_of(scores[TEACHER], scores[SCRATCH])
    gains |= {TEACHER: gain}
  return gains


def judged(gains: dict[str, statistics.Gain]) -> dict[str, statistics.Gain]:
  """The gains of the methods alone."""
  return {k: x for k, x in gains.items() if k not in (TEACHER, ALL_LABELS)}


def new_table(results: Results) -> tables.Table:
  """A row for each method on new classes."""
  rows = results.new_classes
  columns: dict[str, Any] = {"": lambda name: NAMES[name]}
  for score, title in (
    ("accuracy", "classifier, %"),
    ("nearest", "nearest mean, %"),
  ):
    scores = {k: x[score] for k, x in rows.items() if score in x}
    gains = gains_of(scores)
    columns[title] = lambda name, scores=scores: (
      statistics.percent(scores[name]) if name in scores else ""
    )
    columns[f"{title[:-3]}: gain"] = lambda name, gains=gains: statistics.cell(
      gains, name
    )
  return tables.of_rows(rows, columns, shown=(0, 1, 3, 4))


def union_table(results: Results) -> tables.Table:
  """A row for each method on all classes."""
  scores = best(results.all_classes)
  gains = gains_of(scores)
  return tables.of_rows(
    scores,
    {
      "": lambda name: NAMES[name],
      "accuracy, %": lambda name: statistics.percent(scores[name]),
      "gain": lambda name: statistics.cell(gains, name),
    },
  )


READING = (
  "Mean ± standard deviation over seeds, in percent of test images after the "
  "last step. The nearest mean of a class is that of the embeddings of its "
  "labelled images. Gains are over training from scratch on the same labels. "
  f"{statistics.LEGEND} The rows of all labels are upper bounds. Without "
  "training, the teacher of the first classes has the embeddings of the new "
  "ones, and of two teachers the surer one answers."
)


def conclude(job: Any, results: Results) -> list[str]:
  """The findings, in words."""
  texts = []
  count = job.config.examples_per_class
  for title, rows in (
    ("New classes", results.new_classes),
    ("All classes", results.all_classes),
  ):
    scores = best(rows)
    gains = judged(gains_of(scores))
    text = (
      f"{title}: from scratch with {count} labels a class "
      f"{scores[SCRATCH].mean():.1%}, with all labels "
      f"{scores[ALL_LABELS].mean():.1%}; the teacher without training "
      f"{scores[TEACHER].mean():.1%}. "
    )
    found = statistics.findings(gains, NAMES, NAMES[SCRATCH])
    texts.append((text + " ".join(found)).strip())
  return texts


def setting(job: Any, results: Results) -> str:
  """The images and the training, in words."""
  config, data = job.config, job.data
  old, new = (f"{results.teachers[k].mean():.1%}" for k in ("old", "new"))
  return (
    "## The setting\n\n"
    f"The first {data.old.classes} classes are the first teacher's, the other "
    f"{data.new.classes} the student's, or the second teacher's. Teachers see "
    f"all labels of their classes and reach {old} and {new} on them. Networks "
    f"have hidden layers of {', '.join(map(str, config.hidden))} units and "
    f"take two stages of {config.steps} steps of Adam (learning rate "
    f"{config.learning_rate:g}) on batches of {config.batch_size}. Each seed "
    f"drew {config.examples_per_class} labelled images a class; amalgamation "
    f"sees all {len(data.union.train['label'])} images without labels. Weights "
    "are the published ones of `methods.create`. The test images chose "
    "nothing."
  )


def draw(job: Any, results: Results) -> dict[str, str]:
  """Saves the figure: accuracies of both tasks, each seed as a dot."""
  gains = judged(gains_of(best(results.new_classes)))
  title = statistics.headline(gains, NAMES, f"{NAMES[SCRATCH]}, new classes")
  path = job.run.path / "accuracy.png"
  tasks = {
    "new classes, nearest mean": {
      k: x["nearest"] for k, x in results.new_classes.items()
    },
    "all classes": best(results.all_classes),
  }
  with plots.figure(path, title=title, columns=2, width=10.0, height=3.8) as (
    left,
    right,
  ):
    for axes, (label, scores) in zip((left, right), tasks.items(), strict=True):
      for i, (name, values) in enumerate(scores.items()):
        style = {"color": COLOURS[name]}
        axes.plot(values, np.full(len(values), i), ".", alpha=0.4, **style)
        axes.plot(values.mean(), i, "o", ms=7, **style)
      plots.name_rows(axes, [NAMES[name] for name in scores])
      axes.set_xlabel(f"accuracy, {label}")
      axes.xaxis.set_major_formatter(plots.percent)
  caption = (
    "Accuracy on test images, each seed as a dot and the mean. Left: new "
    "classes, by the nearest mean of embeddings. Right: all classes."
  )
  return {path.name: caption}
