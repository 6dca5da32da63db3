"""The tables and the words of the report of `experiments.compare`."""

import csv
from typing import Any

import jax
import numpy as np

from experiments.compare import methods, plots
from experiments.compare.cells import pair_teacher, teacher_targets
from experiments.frame import statistics, tables
from kdjax import methods as kmethods
from kdjax import metrics, training

HEADER = (
  *("method", "last epoch, %", "best on validation, %"),
  *("gain over scratch", "gain over KD", "agreement, %", "KL to teacher"),
  *("ECE, %", "CKA", "gradient cosine"),
  *("ms a step", "extra MB", "extra parameters"),
)
SHOWN = (0, 1, 3, 4)  # columns on the console, for a width of 80

# Baseline -> method -> its gain over the baseline.
Gains = dict[str, dict[str, statistics.Gain]]


def write(job: Any) -> dict[str, Any]:
  """Writes the report and the tables; returns the cells by pair and method."""
  config, path = job.config, job.run.path
  results = read(job)
  parts, records = [], []
  for pair, cells in results.items():
    gains = {base: gains_over(cells, base) for base in ("scratch", "kd")}
    rows = [make_row(name, cells, gains) for name in ranked(cells)]
    parts += [
      f"## {pair}",
      describe_teacher(job, pair, cells),
      tables.Table(HEADER, rows, pair, SHOWN),
      findings(cells, gains) + failures(job, pair),
      plots.draw(job, pair, cells, gains["scratch"]),
    ]
    records += [make_record(pair, name, cells, gains) for name in cells]
  for pair in {pair: None for pair, _ in job.failed if pair not in results}:
    parts += [f"## {pair}", failures(job, pair)]
  training.write_json(path / "results.json", records)
  with (path / "results.csv").open("w", newline="") as file:
    first = next(iter(records), {})
    plain = [k for k, v in first.items() if not isinstance(v, list | dict)]
    writer = csv.DictWriter(file, plain, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(records)
  order = "together" if config.together else "one after the other"
  job.run.publish(
    job.console,
    f"Distillation methods on {config.dataset}",
    setting(job),
    *parts,
    "## How to read the tables",
    "Accuracies are of the test images, mean ± standard deviation over the "
    "seeds. *Best on validation* is the test accuracy at the evaluation that "
    "was best on the validation images, for each seed. Gains are in points at "
    f"the last epoch. {statistics.LEGEND} They hold for other seeds with this "
    "teacher and these test images. Agreement, KL, ECE and CKA (of the "
    "embeddings) compare the student with the pair's teacher on the test "
    "images at the last epoch. *Gradient cosine* is that between the "
    "cross-entropy and all that the method adds to it, on one batch of "
    "training images at the last epoch. *ms a step* is for one student; the "
    f"seeds were trained {order}, {config.workers} cell(s) at a time. *Extra "
    "MB* is the memory of the compiled training beyond scratch, with the "
    "teacher's weights. Each diagnostic is explained in docs/diagnostics.md.",
  )
  return results


def read(job: Any) -> dict[str, dict[str, Any]]:
  """The finished cells of pairs that have both baselines, in a fixed order."""
  order = {name: i for i, name in enumerate(methods.method_names())}
  results: dict[str, dict[str, Any]] = {}
  for file in sorted((job.run.path / "cells").glob("*/*.json")):
    # JSON has null for NaN.
    cell = jax.tree.map(
      lambda x: np.nan if x is None else x,
      training.read_json(file),
      is_leaf=lambda x: x is None,
    )
    results.setdefault(cell["pair"], {})[cell["method"]] = cell
  return {
    pair: dict(sorted(cells.items(), key=lambda item: order[item[0]]))
    for pair, cells in results.items()
    if {"scratch", "kd"} <= set(cells)
  }


def failures(job: Any, pair: str) -> list[str]:
  """The cells of a pair that failed, with their errors."""
  return [
    f"**Failed**: {method}: {error} It is trained again with --resume."
    for (of, method), error in job.failed.items()
    if of == pair
  ]


def accuracy(cell: dict[str, Any]) -> np.ndarray:
  """Test accuracy at the last epoch, `[seeds]`."""
  return np.array(cell["test"]["accuracy"])


def best_accuracy(cell: dict[str, Any]) -> np.ndarray | None:
  """Test accuracy where the validation accuracy was best, `[seeds]`."""
  if "validation" not in cell["history"][0]:
    return None
  validation, test = (
    np.array([seen[part]["accuracy"] for seen in cell["history"]])
    for part in ("validation", "test")
  )
  return np.take_along_axis(test, validation.argmax(0)[None], 0)[0]


def ranked(cells: dict[str, Any]) -> list[str]:
  """Methods from the best to the worst, then those that do not apply."""

  def rank(name: str) -> float:
    return -accuracy(cells[name]).mean() if "test" in cells[name] else 1.0

  return sorted(cells, key=rank)


def gains_over(cells: dict[str, Any], base: str) -> dict[str, statistics.Gain]:
  """Each method's gain over scratch or over plain KD."""
  others = {
    name: accuracy(cell)
    for name, cell in cells.items()
    if "test" in cell and name not in ("scratch", base)
  }
  return statistics.compare(others, accuracy(cells[base]))


def make_row(name: str, cells: dict[str, Any], gains: Gains) -> list[str]:
  """A row of the table."""
  cell = cells[name]
  if "not_applicable" in cell:
    return [name, "not applicable", *[""] * (len(HEADER) - 2)]
  test, costs, base = cell["test"], cell["costs"], cells["scratch"]["costs"]
  best = best_accuracy(cell)
  cosine = cell["history"][-1].get("gradient_cosine")
  return [
    name,
    statistics.mean_std(accuracy(cell), scale=100),
    "" if best is None else statistics.mean_std(best, scale=100),
    *(statistics.cell(gains[x], name, digits=2) for x in ("scratch", "kd")),
    f"{100 * np.mean(test['agreement']):.1f}",
    f"{np.mean(test['kl']):.3f}",
    f"{100 * np.mean(test['ece']):.1f}",
    f"{np.mean(test['cka']):.3f}",
    "" if cosine is None else f"{np.mean(cosine):+.2f}",
    f"{costs['step_ms']:.2f}",
    f"{(costs['bytes'] - base['bytes']) / 1e6:+.1f}",
    f"{costs['objective_parameters']:,}",
  ]


def make_record(
  pair: str, name: str, cells: dict[str, Any], gains: Gains
) -> dict[str, Any]:
  """A row of results.json; results.csv has its single values."""
  cell, reason = cells[name], cells[name].get("not_applicable", "")
  test, costs = cell.get("test"), cell.get("costs", {})
  record: dict[str, Any] = {"pair": pair, "method": name}
  record |= {"source": kmethods.describe(name).source, "not_applicable": reason}
  for label, of in (("accuracy", accuracy), ("best", best_accuracy)):
    values = of(cell) if test else None
    known = values is not None
    record[f"{label}_mean"] = float(values.mean()) if known else None
    many = known and len(values) > 1
    record[f"{label}_std"] = float(values.std(ddof=1)) if many else None
  for over in ("scratch", "kd"):
    *gain, p_value = gains[over].get(name) or (None,) * 4
    for label, value in zip(("", "_low", "_high"), gain, strict=True):
      points = None if value is None else 100 * value
      record[f"gain_over_{over}{label}"] = points
    record[f"p_value_over_{over}"] = p_value
  for label in ("agreement", "kl", "ece", "cka"):
    record[label] = float(np.mean(test[label])) if test else None
  names = "step_ms", "bytes", "objective_parameters", "seconds"
  record |= {label: costs.get(label) for label in names}
  return record | {"test": test, "history": cell.get("history")}


def findings(cells: dict[str, Any], gains: Gains) -> list[str]:
  """The verdicts, in words."""
  names = {name: name for name in cells}
  texts = statistics.findings(gains["scratch"], names, "scratch")
  if texts and any(x.verdict != "unknown" for x in gains["kd"].values()):
    texts += statistics.findings(gains["kd"], names, "plain KD")
  rates = {name: accuracy(x) for name, x in cells.items() if "test" in x}
  least = rates["scratch"].mean() / 2
  collapsed = {
    name: f"{name} ({100 * values.mean():.1f} %)"
    for name, values in rates.items()
    if name != "scratch" and values.mean() < least
  }
  if collapsed:
    texts.append(
      f"**Collapsed**, to less than half of scratch's accuracy: "
      f"{', '.join(collapsed.values())}. Published weights suit the published "
      "networks and images, see docs/comparison.md."
    )
  reasons = methods.COLLAPSES
  texts += [f"{x}: {reasons[x]}." for x in reasons if x in collapsed]
  lost = {x: np.isnan(cells[x]["test"].get("kl", ())).sum() for x in rates}
  diverged = [
    f"{name} ({count} of {len(rates[name])} seeds)"
    for name, count in lost.items()
    if count
  ]
  if diverged:
    texts.append(
      "**Diverged**, to logits that are NaN and count as errors: "
      f"{', '.join(diverged)}."
    )
  return texts + [
    f"Not applicable: {name}: {cell['not_applicable']}"
    for name, cell in cells.items()
    if "not_applicable" in cell
  ]


def describe_teacher(job: Any, pair: str, cells: dict[str, Any]) -> str:
  """The teacher's accuracy and the entropy of its predictions."""
  name = pair.split(":")[0]
  weights = jax.tree.leaves(pair_teacher(job, name).variables.params)
  logits = teacher_targets(job, name)[0][job.data.parts["test"]]
  hits = metrics.accuracy(logits, job.data.test_labels)
  plain, softened = (metrics.entropy(logits / x).mean() for x in (1.0, 4.0))
  student = cells["scratch"]["costs"]["student_parameters"]
  return (
    f"The teacher, {name} ({sum(x.size for x in weights):,} parameters), has a "
    f"test accuracy of {hits.mean():.2%}; the entropy of its predictions is "
    f"{plain:.3f} nats, at T = 4 {softened:.3f}, of at most "
    f"{np.log(job.data.classes):.3f}. The student has {student:,} parameters."
  )


def setting(job: Any) -> str:
  """The images and the recipe, in words."""
  config, data = job.config, job.data
  few, per_class = "all of them", config.examples_per_class
  if per_class:
    few = f"{data.examples} of them, {per_class} of each class, by its seed"
  height, width = data.train["image"].shape[1:3]
  recipe = {
    "cifar100": "RepDistiller's protocol",
    "function_matching": "big_vision's function matching",
  }.get(config.recipe, "RepDistiller's protocol with other images and epochs")
  return (
    f"Teachers see {len(data.train['label'])} labelled images, students {few}; "
    f"{data.validation_size or 'no'} images are held out for validation, and "
    f"{len(data.test_labels)} for the test, all of {height}x{width} pixels. "
    f"{recipe}: {config.epochs} epochs, {config.seeds} seeds, {config.dtype}. "
    "Seed i has the same initial weights, images, order and shifts under every "
    "method. The weights of the methods are the published ones "
    "(`kdjax.methods.create`); nothing was tuned or chosen on test images."
  )
