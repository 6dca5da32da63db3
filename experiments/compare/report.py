"""The tables, the figures and the words of `experiments.compare`."""

import csv
import json
from math import isfinite
from typing import Any, NamedTuple

import jax
import numpy as np
from rich import box
from rich.table import Table

from experiments.compare.cells import pair_teacher
from experiments.compare.cells import teacher_targets
from experiments.compare.methods import method_names
from experiments.compare.methods import row_of
from experiments.compare.plots import draw
from experiments.frame import commands
from experiments.frame import statistics

HEADER = (
  "method",
  "last epoch, %",
  "best on validation, %",
  "gain over scratch, points",
  "",
  "gain over KD, points",
  "",
  "agreement, %",
  "KL to teacher",
  "ECE, %",
  "CKA",
  "gradient cosine",
  "ms a step",
  "extra MB",
  "extra parameters",
)
SHOWN = (0, 1, 3, 4, 5, 6, 7, 12)  # columns on the console


class Gain(NamedTuple):
  """A paired difference at the last epoch.

  Attributes:
    interval: its 95 % interval, in points.
    p_value: of a paired t-test, after Holm's correction.
    mark: "+" or "-" if that is below .05.
  """

  interval: statistics.Interval
  p_value: float
  mark: str


def write(job: Any) -> dict[str, Any]:
  """Writes report.md, results.json, results.csv and the figures.

  Args:
    job: the run; all finished cells in its folder are reported, of pairs that
      have scratch and plain KD.

  Returns:
    Pair -> method -> what the cell's file holds.
  """
  results = read(job)
  parts, records, tables = [], [], {}
  for pair, cells in results.items():
    gains = {base: gains_over(cells, base) for base in ("scratch", "kd")}
    rows = [make_row(name, cells, gains) for name in ranked(cells)]
    tables[pair] = rows
    figures = draw(job, pair, cells, gains["scratch"])
    parts += [
      f"## {pair}",
      describe_teacher(job, pair, cells),
      commands.markdown_table(HEADER, rows),
      *verdicts(cells, gains),
      *failures(job, pair),
      *(f"![]({name})\n\n{caption}" for name, caption in figures.items()),
    ]
    records += [make_record(pair, name, cells, gains) for name in cells]
  parts += [
    f"## {pair}\n\n" + "\n\n".join(failures(job, pair))
    for pair in dict.fromkeys(pair for pair, _ in job.failed)
    if pair not in results
  ]
  (job.run.path / "results.json").write_text(
    json.dumps(to_json(records), allow_nan=False) + "\n"
  )
  with (job.run.path / "results.csv").open("w", newline="") as file:
    first = next(iter(records), {})
    plain = [name for name, value in first.items() if is_plain(value)]
    writer = csv.DictWriter(file, plain, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(records)
  file = job.run.report(
    f"# Distillation methods on {job.config.dataset}",
    setting(job),
    *parts,
    "## How to read it",
    LEGEND.format(
      order="together" if job.config.together else "one after the other",
      workers=f"{job.config.workers} cell(s)",
    ),
  )
  for pair, rows in tables.items():
    table = Table(box=box.SIMPLE_HEAD, title=pair, title_justify="left")
    for i in SHOWN:
      table.add_column(HEADER[i], justify="right" if i else "left")
    for row in rows:
      table.add_row(*(row[i] for i in SHOWN))
    job.console.print(table)
    for text in verdicts(
      results[pair],
      {base: gains_over(results[pair], base) for base in ("scratch", "kd")},
    ):
      job.console.print(text, highlight=False)
  job.console.print(f"Report, plots and students: {file.parent}")
  return results


LEGEND = (
  "Accuracies are of the test images, mean ± standard deviation over the "
  "seeds. *Best on validation* is the test accuracy at the evaluation that was "
  "best on the validation images, for each seed. Gains are at the last epoch, "
  "paired by seed, with their 95 % t intervals; + and - mark those whose "
  "paired t-test is below .05 after Holm's correction over the methods of the "
  "pair. They speak of other seeds with this teacher and these test images. "
  "Agreement, KL, ECE and CKA (of the embeddings) compare the student with the "
  "pair's teacher on the test images at the last epoch. *Gradient cosine* is "
  "that between the cross-entropy and all that the method adds to it, on one "
  "batch of training images at the last epoch. *ms a step* is for one student; "
  "the seeds were trained {order}, {workers} at a time. *Extra MB* is what the "
  "compiled training needs, arguments and temporaries, beyond scratch; the "
  "teacher's weights are among them. What each diagnostic means: "
  "docs/diagnostics.md."
)


def read(job: Any) -> dict[str, dict[str, Any]]:
  """All finished cells, in the order of the table of methods."""
  order = {name: i for i, name in enumerate(method_names())}
  results: dict[str, dict[str, Any]] = {}
  for file in sorted((job.run.path / "cells").glob("*/*.json")):
    cell = json.loads(file.read_text())
    results.setdefault(cell["pair"], {})[cell["method"]] = cell
  return {
    pair: dict(sorted(cells.items(), key=lambda item: order[item[0]]))
    for pair, cells in results.items()
    if {"scratch", "kd"} <= set(cells)
  }


def failures(job: Any, pair: str) -> list[str]:
  """Which cells of a pair were not finished, and why."""
  return [
    f"**Failed**, and trained again with --resume: {method}: {error}"
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
  done = [name for name, cell in cells.items() if "test" in cell]
  done.sort(key=lambda name: -accuracy(cells[name]).mean())
  return [*done, *(name for name in cells if name not in done)]


def gains_over(cells: dict[str, Any], base: str) -> dict[str, Gain]:
  """Each method's gain over scratch or over plain KD."""
  others = [
    name
    for name, cell in cells.items()
    if "test" in cell and name not in ("scratch", base)
  ]
  control = accuracy(cells[base])
  values = {name: accuracy(cells[name]) for name in others}
  adjusted = statistics.holm(
    [statistics.paired_p_value(values[name], control) for name in others]
  )
  gains = {}
  for name, p_value in zip(others, adjusted, strict=True):
    interval = statistics.paired_interval(values[name], control)
    interval = statistics.Interval(*(100 * x for x in interval))
    mark = ("+" if interval.mean > 0 else "-") if p_value < 0.05 else ""
    gains[name] = Gain(interval, p_value, mark)
  return gains


def make_row(
  name: str, cells: dict[str, Any], gains: dict[str, dict[str, Gain]]
) -> list[str]:
  """A row of the table."""
  cell = cells[name]
  if "not_applicable" in cell:
    return [name, "not applicable", *[""] * (len(HEADER) - 2)]
  test, costs, base = cell["test"], cell["costs"], cells["scratch"]["costs"]
  best = best_accuracy(cell)
  row = [
    name,
    statistics.mean_std(accuracy(cell), scale=100),
    "" if best is None else statistics.mean_std(best, scale=100),
  ]
  for over in ("scratch", "kd"):
    gain = gains[over].get(name)
    row += [statistics.gain(gain.interval, 2), gain.mark] if gain else ["", ""]
  cosine = cell["history"][-1].get("gradient_cosine")
  return [
    *row,
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
  pair: str,
  name: str,
  cells: dict[str, Any],
  gains: dict[str, dict[str, Gain]],
) -> dict[str, Any]:
  """A row of results.json; results.csv has its single values."""
  cell = cells[name]
  record: dict[str, Any] = {
    "pair": pair,
    "method": name,
    "source": row_of(name).source,
    "not_applicable": cell.get("not_applicable", ""),
  }
  done = "test" in cell
  best = best_accuracy(cell) if done else None
  columns = {"accuracy": accuracy(cell) if done else None, "best": best}
  for label, values in columns.items():
    known = values is not None
    record[f"{label}_mean"] = float(values.mean()) if known else None
    many = known and len(values) > 1
    record[f"{label}_std"] = float(values.std(ddof=1)) if many else None
  for over in ("scratch", "kd"):
    gain = gains[over].get(name)
    interval = gain.interval if gain else (None,) * 3
    for label, value in zip(("", "_low", "_high"), interval, strict=True):
      record[f"gain_over_{over}{label}"] = value
    record[f"p_value_over_{over}"] = gain.p_value if gain else None
  for label in ("agreement", "kl", "ece", "cka"):
    record[label] = float(np.mean(cell["test"][label])) if done else None
  costs = cell.get("costs", {})
  for label in ("step_ms", "bytes", "objective_parameters", "seconds"):
    record[label] = costs.get(label)
  return record | {"test": cell.get("test"), "history": cell.get("history")}


def to_json(value: Any) -> Any:
  """None for numbers that JSON does not have, as an end of one seed's gain."""
  if isinstance(value, dict):
    return {name: to_json(item) for name, item in value.items()}
  if isinstance(value, list):
    return [to_json(item) for item in value]
  return None if isinstance(value, float) and not isfinite(value) else value


def is_plain(value: Any) -> bool:
  """Whether a value fits into a column of a CSV file."""
  return not isinstance(value, list | dict)


def verdicts(
  cells: dict[str, Any], gains: dict[str, dict[str, Gain]]
) -> list[str]:
  """What the intervals mean, in words."""

  def told(names: list[str], base: str) -> str:
    intervals = {name: gains[base][name].interval for name in names}
    return ", ".join(
      f"{name} {statistics.gain(interval, 1)}"
      for name, interval in intervals.items()
    )

  over = gains["scratch"]
  if over and not statistics.is_known(next(iter(over.values())).interval):
    return [f"{statistics.ONE_SEED.capitalize()}."]
  hurt = [name for name, gain in over.items() if gain.interval.high < 0]
  unsure = [
    name
    for name, gain in over.items()
    if gain.interval.low <= 0 <= gain.interval.high
  ]
  helped = [name for name, gain in over.items() if gain.interval.low > 0]
  behind = {n: g for n, g in gains["kd"].items() if g.interval.mean < 0}
  clearly = [name for name, gain in behind.items() if gain.mark]
  ahead = [name for name, gain in gains["kd"].items() if gain.mark == "+"]
  texts = [
    f"{len(helped)} of {len(over)} methods helped: the interval of their gain "
    "over scratch is above zero."
  ]
  if unsure:
    texts.append(
      "**Did not help**, their interval includes zero: "
      f"{told(unsure, 'scratch')}."
    )
  if hurt:
    texts.append(f"**Hurt**: {told(hurt, 'scratch')}.")
  diverged = [
    f"{name} ({lost} of {len(accuracy(cell))} seeds)"
    for name, cell in cells.items()
    if (lost := np.isnan(cell.get("test", {}).get("kl", ())).sum())
  ]
  if diverged:
    texts.append(
      "**Diverged**, to outputs that are no numbers and count as errors: "
      f"{', '.join(diverged)}."
    )
  texts.append(
    f"**Better than plain KD** after Holm's correction: {told(ahead, 'kd')}."
    if ahead
    else "No method is better than plain KD after Holm's correction."
  )
  if behind:
    texts.append(
      f"**Lose to plain KD**: {told(list(behind), 'kd')}."
      + (
        f" After Holm's correction: {', '.join(clearly)}."
        if clearly
        else " None of them after Holm's correction."
      )
    )
  texts += [
    f"Not applicable: {name}: {cell['not_applicable']}"
    for name, cell in cells.items()
    if "not_applicable" in cell
  ]
  return texts


def describe_teacher(job: Any, pair: str, cells: dict[str, Any]) -> str:
  """How good the teacher is, and how much it leaves open."""
  name = pair.split(":")[0]
  guide = pair_teacher(job, name)
  targets = teacher_targets(job, name)
  logits = np.asarray(targets[0][job.data.parts["test"]])
  labels = job.data.test_labels

  def entropy(temperature: float) -> float:
    q = np.asarray(jax.nn.softmax(logits / temperature))
    return float(-(q * np.log(np.maximum(q, 1e-30))).sum(-1).mean())

  student = cells["scratch"]["costs"]["student_parameters"]
  weights = jax.tree.leaves(guide.variables.params)
  return (
    f"The teacher, {name} ({sum(x.size for x in weights):,} parameters), reads "
    f"{(logits.argmax(-1) == labels).mean():.2%} of the test images; the "
    f"entropy of its answers is {entropy(1.0):.3f} nats, at T = 4 "
    f"{entropy(4.0):.3f}, of at most {np.log(job.data.classes):.3f}. The "
    f"student has {student:,} parameters."
  )


def setting(job: Any) -> str:
  """Who saw what, in words."""
  config, data = job.config, job.data
  few = "all of them"
  if config.examples_per_class:
    few = (
      f"{data.examples} of them, {config.examples_per_class} of each class, "
      "drawn anew for each seed"
    )
  held = data.validation_size
  height, width = data.train["image"].shape[1:3]
  recipe = {
    "cifar100": "RepDistiller's protocol",
    "function_matching": "big_vision's function matching",
  }.get(config.recipe, "RepDistiller's protocol with other images and epochs")
  return (
    f"Teachers see {len(data.train['label'])} labelled images, students {few}; "
    f"{held or 'no'} images are held out for validation, and "
    f"{len(data.test_labels)} for the test, all of {height}x{width} pixels. "
    f"{recipe}: {config.epochs} "
    f"epochs, {config.seeds} seeds, {config.dtype}. Seed i has the same "
    "initial weights, images, order and shifts under every method. The weights "
    "of the methods are the published ones (`kdjax.objectives.PRESETS`); "
    "nothing was chosen on test images, and nothing tuned."
  )
