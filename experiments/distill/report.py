"""The table, the figures and the report of `experiments.distill`."""

from typing import Any

import numpy as np

from experiments.frame import commands
from experiments.frame import plots
from experiments.frame import statistics
from kdjax.distillation import softened_softmax

GROUPS = ("teacher", "scratch", "distilled")


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table.

  Args:
    job: the `Job` of the experiment.
    results: what its `main` returns.
  """
  figures = draw(job, results)
  header, rows = make_table(job.config, results)
  finding = statistics.verdict("Distillation", results["gain"])
  file = job.run.report(
    f"# Distillation on {job.config.dataset}",
    finding,
    commands.markdown_table(header, rows),
    "Mean ± standard deviation over the seeds of the students; the gain is "
    "distilled minus scratch, paired by seed, with its t interval. It speaks "
    "of other seeds (weights, images and their order) with this teacher and "
    "these test images. What the diagnostics mean: docs/diagnostics.md.",
    setting(job, results),
    "## Figures",
    *(f"![]({name})\n\n{caption}" for name, caption in figures.items()),
  )
  job.console.print(commands.console_table(header, rows))
  job.console.print(finding, chosen_cell(results), highlight=False)
  job.console.print(f"Report, plots and checkpoints: {file.parent}")
  job.run.rewind("test", -1)
  job.run.log(
    stage="test",
    step=0,
    **{
      f"{group}_{name}": values
      for group in GROUPS
      for name, values in results["scores"][group].items()
    },
  )


def make_table(
  config: Any, results: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of the final table."""
  kinds = {
    "accuracy": ("test accuracy, %", 100, 2),
    "missing": (f"accuracy on class {config.missing_digit}, %", 100, 2),
    "agreement": ("agreement with teacher, %", 100, 2),
    "kl": ("KL to the teacher, nats", 1, 3),
    "cka": ("CKA with the teacher", 1, 3),
    "entropy": ("entropy of the answers, nats", 1, 3),
    "ece": ("calibration error (ECE), %", 100, 2),
    "nll": ("negative log-likelihood", 1, 3),
  }
  rows = []
  for kind, (label, scale, digits) in kinds.items():
    groups = [results["scores"][name].get(kind) for name in GROUPS]
    if groups[0] is None:
      continue
    texts = [
      statistics.mean_std(values, scale=scale, digits=digits)
      for values in groups
    ]
    ends = statistics.paired_interval(groups[2], groups[1])
    gain = statistics.Interval(*(scale * x for x in ends))
    rows.append([label, *texts, statistics.gain(gain, digits)])
  teacher, student = results["costs"]
  for label, kind, form in (
    ("parameters", "parameters", ",d"),
    (f"latency, batch of {config.batch_size}, ms", "latency", ".3f"),
    ("latency, an image of it, µs", "image_latency", ".2f"),
  ):
    same = format(student[kind], form)
    rows.append([label, format(teacher[kind], form), same, same, ""])
  return ["", *GROUPS, "gain (95 % interval)"], rows


def chosen_cell(results: dict[str, Any]) -> str:
  """Which cell was chosen, and how."""
  temperature, alpha = results["cells"][results["chosen"]]
  accuracy = results["student_validation"][-1].mean(0)
  return (
    f"T = {temperature:g} and alpha = {alpha:g} were chosen of "
    f"{len(accuracy) - 1} cells by their mean validation accuracy, "
    f"{accuracy[results['chosen']]:.2%} (scratch {accuracy[0]:.2%})."
  )


def setting(job: Any, results: dict[str, Any]) -> str:
  """Who saw what, in words."""
  config, data = job.config, job.data
  seen, everything = data.transfer.shape[1], len(data.train["label"])
  if config.examples_per_class:
    images = (
      f"{seen} of them, {config.examples_per_class} of each class, drawn anew "
      "for each seed"
    )
  else:
    images = f"{seen} of them"
  shifts = " with the same shifts" if config.shift else ""
  teacher, student = (f"{cost['parameters']:,}" for cost in results["costs"])
  missing = ""
  if config.missing_digit is not None:
    missing = f" No student ever sees an image of class {config.missing_digit}."
  return (
    "## The setting\n\n"
    f"The teacher ({config.teacher}, {teacher} parameters) was trained on "
    f"{everything} labelled images. A student ({config.student}, {student} "
    f"parameters) sees {images}, with their labels.{missing} Seed i from "
    "scratch and seed i distilled start from the same weights and see the "
    f"same images in the same order{shifts}; the distilled one also sees the "
    f"teacher's logits for them, by the method {config.method}.\n\n"
    f"{chosen_cell(results)} No network was trained on these "
    f"{len(data.validation['label'])} validation images. The "
    f"{len(data.test['label'])} test images were used for the chosen cell "
    "alone."
  )


def draw(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path, chosen = job.config, job.run.path, results["chosen"]
  temperature, alpha = results["cells"][chosen].tolist()
  accuracy = results["student_validation"]  # [rounds, seeds, cells]
  pairs = accuracy[:, :, [0, chosen]].transpose(2, 1, 0)
  gap = statistics.paired_interval(pairs[1][:, -1], pairs[0][:, -1])
  end = "end no higher than"
  if gap.low > 0 or gap.high < 0:
    end = f"end {100 * abs(gap.mean):.1f} points "
    end += "above" if gap.low > 0 else "below"
  known = statistics.is_known(gap)
  unknown = statistics.ONE_SEED.capitalize()
  plots.learning_curves(
    path / "learning_curves.png",
    config.evaluate_every * np.arange(1, len(accuracy) + 1),
    dict(zip(GROUPS[1:], pairs, strict=True)),
    levels={"teacher": float(results["teacher_validation"][-1])},
    title=f"Distilled students {end} those from scratch" if known else unknown,
    ylabel="validation accuracy",
  )

  cells = results["cells"][1:]
  rows, columns = (list(dict.fromkeys(column)) for column in cells.T)
  means = accuracy[-1].mean(0)
  values = means[1:].reshape(len(rows), len(columns))
  plots.heat_map(
    path / "heat_map.png",
    np.insert(values, 0, means[0], axis=1),
    rows=[f"{value:g}" for value in rows],
    columns=["0\nscratch", *(f"{value:g}" for value in columns)],
    row_label="temperature T",
    column_label="alpha, the weight of the teacher",
    title=f"T = {temperature:g}, alpha = {alpha:g} distils best "
    "(validation accuracy, %)",
    chosen=(rows.index(temperature), 1 + columns.index(alpha)),
    apart=1,
  )

  errors = {name: results["scores"][name]["ece"].mean() for name in GROUPS}
  excess = statistics.paired_interval(
    results["scores"]["distilled"]["ece"], results["scores"]["scratch"]["ece"]
  )
  better = "better" if excess.high < 0 else "no better"
  plots.reliability_diagram(
    path / "reliability.png",
    {name: results["curves"][name] for name in GROUPS},
    {name: f"{error:.1%}" for name, error in errors.items()},
    title=f"Distilled students are {better} calibrated" if known else unknown,
  )

  logits = results["target_logits"]
  places = job.data.transfer[0][: len(logits)]
  images = np.asarray(job.data.train["image"])[places]
  labels = np.asarray(job.data.train["label"])[places]
  shown = most_telling(logits, labels, temperature)
  targets = {
    value: np.asarray(softened_softmax(logits, temperature=value))
    for value in sorted({1.0, temperature})
  }
  others = [
    f"{1 - rows[np.arange(len(rows)), labels].mean():.1%} at T = {value:g}"
    for value, rows in targets.items()
  ]
  plots.softened_targets(
    path / "targets.png",
    images[shown],
    labels[shown],
    {f"T = {value:g}": rows[shown] for value, rows in targets.items()},
    title=f"The teacher gives other classes {', '.join(others)}",
  )
  return {
    "learning_curves.png": "Mean validation accuracy over the seeds, in a band "
    "of one standard deviation.",
    "heat_map.png": "Validation accuracy at the end, mean over the seeds. The "
    "frame is the chosen cell; alpha = 0 is the same for every T.",
    "reliability.png": "Test images of all seeds in bins of confidence; bins "
    "of fewer than 10 images are left out above.",
    "targets.png": "Of the first seed's images that the teacher gets right, "
    "the least certain one of some classes.",
  }


def most_telling(
  logits: Any, labels: np.ndarray, temperature: float, count: int = 5
) -> np.ndarray:
  """Places of right but uncertain predictions, at most one of each class."""
  rows = np.asarray(softened_softmax(logits, temperature=temperature))
  certainty = rows.max(-1) + (rows.argmax(-1) != labels)
  order = np.argsort(certainty, kind="stable")
  _, first = np.unique(labels[order], return_index=True)
  return order[np.sort(first)[:count]]
