"""The table, the figures and the report of `experiments.distill`."""

from typing import Any

import numpy as np

from experiments.distill.plots import grid_map
from experiments.distill.plots import learning_curves
from experiments.distill.plots import reliability_diagram
from experiments.distill.plots import softened_targets
from experiments.frame import statistics
from experiments.frame import tables
from kdjax.distillation import softened_softmax

GROUPS = ("teacher", "scratch", "distilled")


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table.

  Args:
    job: the `Job` of the experiment.
    results: what its `main` returns.
  """
  job.run.publish(
    job.console,
    f"Distillation on {job.config.dataset}",
    [results["gain"].sentence("Distillation"), chosen_cell(results)],
    make_table(job.config, results),
    "Mean ± standard deviation over the seeds of the students. The gain is "
    "distilled minus scratch. It holds for other seeds (weights, images and "
    "their order) with this teacher and these test images. "
    f"{statistics.LEGEND} Each row is a comparison of its own. The "
    "diagnostics are explained in docs/diagnostics.md.",
    setting(job, results),
    "## Figures",
    draw(job, results),
  )
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


def make_table(config: Any, results: dict[str, Any]) -> tables.Table:
  """Scores and costs of the three groups."""
  kinds = {
    "accuracy": ("test accuracy, %", 100, 2),
    "missing": (f"accuracy on class {config.missing_digit}, %", 100, 2),
    "agreement": ("agreement with teacher, %", 100, 2),
    "kl": ("KL to the teacher, nats", 1, 3),
    "cka": ("CKA with the teacher", 1, 3),
    "entropy": ("entropy of the predictions, nats", 1, 3),
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
    # No verdict: more of a diagnostic is not always better.
    gain = statistics.gain_of(groups[2], groups[1])
    if kind not in ("accuracy", "missing"):
      gain = gain._replace(p_value=None)
    rows.append([label, *texts, gain.cell(scale=scale, digits=digits)])
  teacher, student = results["costs"]
  for label, kind, form in (
    ("parameters", "parameters", ",d"),
    (f"latency, batch of {config.batch_size}, ms", "latency", ".3f"),
    ("latency, an image of it, µs", "image_latency", ".2f"),
  ):
    same = format(student[kind], form)
    rows.append([label, format(teacher[kind], form), same, same, ""])
  return tables.Table(["", *GROUPS, "gain (95 % interval)"], rows)


def chosen_cell(results: dict[str, Any]) -> str:
  """The chosen cell in words."""
  temperature, alpha = results["cells"][results["chosen"]]
  accuracy = results["student_validation"][-1].mean(0)
  return (
    f"T = {temperature:g} and alpha = {alpha:g} were chosen of "
    f"{len(accuracy) - 1} cells by their mean validation accuracy, "
    f"{accuracy[results['chosen']]:.2%} (scratch {accuracy[0]:.2%})."
  )


def setting(job: Any, results: dict[str, Any]) -> str:
  """The images and the networks, in words."""
  config, data = job.config, job.data
  seen, everything = data.transfer.shape[1], len(data.train["label"])
  images = f"{seen} of them"
  if config.examples_per_class:
    images += f", {config.examples_per_class} of each class, drawn by its seed"
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
    f"The {len(data.validation['label'])} validation images chose the cell; no "
    f"network was trained on them. The {len(data.test['label'])} test images "
    "were used for the chosen cell alone."
  )


def draw(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path, chosen = job.config, job.run.path, results["chosen"]
  temperature, alpha = results["cells"][chosen].tolist()
  accuracy = results["student_validation"]  # [rounds, seeds, cells]
  pairs = dict(
    zip(GROUPS[1:], accuracy[..., [0, chosen]].transpose(2, 0, 1), strict=True)
  )
  gap = statistics.gain_of(pairs["distilled"][-1], pairs["scratch"][-1])
  learning_curves(
    path / "learning_curves.png",
    config.evaluate_every * np.arange(1, len(accuracy) + 1),
    pairs,
    teacher=float(results["teacher_validation"][-1]),
    title={
      "helped": f"Distilled students end {100 * gap.mean:.1f} points above "
      "those from scratch",
      "hurt": f"Distilled students end {-100 * gap.mean:.1f} points below "
      "those from scratch",
      "unclear": "Distilled students end no higher than those from scratch",
      "unknown": statistics.TOO_FEW.capitalize(),
      "diverged": "Students diverged",
    }[gap.verdict],
  )
  cells = results["cells"][1:]
  rows, columns = (list(dict.fromkeys(column)) for column in cells.T)
  means = accuracy[-1].mean(0)
  grid_map(
    path / "heat_map.png",
    means[0],
    means[1:].reshape(len(rows), len(columns)),
    temperatures=rows,
    alphas=columns,
    chosen=(rows.index(temperature), columns.index(alpha)),
    title=f"T = {temperature:g}, alpha = {alpha:g} distils best "
    "(validation accuracy, %)",
  )
  ece = {name: results["scores"][name]["ece"] for name in GROUPS}
  excess = statistics.gain_of(ece["distilled"], ece["scratch"])
  reliability_diagram(
    path / "reliability.png",
    {name: results["curves"][name] for name in GROUPS},
    {name: f"{values.mean():.1%}" for name, values in ece.items()},
    title={
      "hurt": "Distilled students are better calibrated",
      "helped": "Distilled students are worse calibrated",
      "unclear": "Distilled students are calibrated no better",
      "unknown": statistics.TOO_FEW.capitalize(),
      "diverged": "Students diverged",
    }[excess.verdict],
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
  softened_targets(
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
    "targets.png": "Of the first seed's images that the teacher predicts "
    "correctly, the least certain one of some classes.",
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
