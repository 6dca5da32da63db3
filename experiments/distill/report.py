"""The table, the figures and the report of `experiments.distill`."""

from typing import Any

from experiments.distill.plots import draw
from experiments.frame import statistics
from experiments.frame import tables

GROUPS = ("teacher", "scratch", "distilled")


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table."""
  temperature, alpha = results["cells"][results["chosen"]]
  accuracy = results["student_validation"][-1].mean(0)
  job.run.publish(
    job.console,
    f"Distillation on {job.config.dataset}",
    [
      results["gain"].sentence("Distillation"),
      f"T = {temperature:g} and alpha = {alpha:g} were chosen of "
      f"{len(accuracy) - 1} cells by their mean validation accuracy, "
      f"{accuracy[results['chosen']]:.2%} (scratch {accuracy[0]:.2%}).",
    ],
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
  row = {
    f"{group}_{name}": values
    for group in GROUPS
    for name, values in results["scores"][group].items()
  }
  job.run.log(stage="test", step=0, **row)


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
    form = {"scale": scale, "digits": digits}
    texts = [statistics.mean_std(values, **form) for values in groups]
    # No verdict: more of a diagnostic is not always better.
    gain = statistics.gain_of(groups[2], groups[1])
    if kind not in ("accuracy", "missing"):
      gain = gain._replace(p_value=None)
    rows.append([label, *texts, gain.cell(**form)])
  teacher, student = results["costs"]
  for label, kind, form in (
    ("parameters", "parameters", ",d"),
    (f"latency, batch of {config.batch_size}, ms", "latency", ".3f"),
    ("latency, an image of it, µs", "image_latency", ".2f"),
  ):
    same = format(student[kind], form)
    rows.append([label, format(teacher[kind], form), same, same, ""])
  return tables.Table(["", *GROUPS, "gain (95 % interval)"], rows)


def setting(job: Any, results: dict[str, Any]) -> str:
  """The images and the networks, in words."""
  config, data = job.config, job.data
  images = f"{data.transfer.shape[1]} of them"
  if config.examples_per_class:
    images += f", {config.examples_per_class} of each class, drawn by its seed"
  teacher, student = (f"{cost['parameters']:,}" for cost in results["costs"])
  missing = ""
  if config.missing_digit is not None:
    missing = f" No student ever sees an image of class {config.missing_digit}."
  return (
    "## The setting\n\n"
    f"The teacher ({config.teacher}, {teacher} parameters) was trained on "
    f"{len(data.train['label'])} labelled images. A student "
    f"({config.student}, {student} parameters) sees {images}, with their "
    f"labels.{missing} Seed i from scratch and seed i distilled share the "
    "initial weights and the images, their order and their shifts; the "
    f"distilled one also sees the teacher's logits, by the method "
    f"{config.method}.\n\n"
    f"The {len(data.validation['label'])} validation images chose the cell; no "
    f"network was trained on them. The {len(data.test['label'])} test images "
    "were used for the chosen cell alone."
  )
