"""The table, the figure and the report of `experiments.distill_encoder`."""

from typing import Any

import numpy as np

from experiments.distill_encoder import methods
from experiments.distill_encoder.training import Row, layers_in_words
from experiments.frame import plots, statistics, tables
from experiments.frame.onnx import NAME as PUBLISHED

COLUMNS = {
  "cosine": "cosine",
  "top1": "nearest, %",
  "top10": "10 nearest, %",
  "spearman": "Spearman",
  "accuracy": "accuracy, %",
}
SHARES = ("top1", "top10", "accuracy")
GOAL = 0.95  # cosine with the teacher


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figure, writes report.md and prints the table."""
  rows = {
    row: {name: np.array([x["test"][name] for x in found]) for name in COLUMNS}
    for row, found in results["rows"].items()
  }
  bounds = results["bounds"]
  job.run.publish(
    job.console,
    "A sentence encoder, distilled",
    conclude(job.config, rows, bounds),
    make_table(job, rows, bounds),
    read_table(job),
    draw(job, results, rows),
  )


def reference_of(config: Any) -> Row:
  """The row that the others at the first depth are compared with."""
  start = "copied" if "copied" in config.starts else "random"
  return Row(config.depths[0], start, config.methods[0])


def gains_of(config: Any, rows: dict[Row, Any]) -> dict[Row, statistics.Gain]:
  """The gains over the reference in common nearest neighbors."""
  reference = reference_of(config)
  others = {
    row: x["top10"]
    for row, x in rows.items()
    if row != reference and row.depth == reference.depth
  }
  gains: Any = statistics.compare(
    {row.name: x for row, x in others.items()}, rows[reference]["top10"]
  )
  return {row: gains[row.name] for row in others}


def make_table(job: Any, rows: Any, bounds: Any) -> tables.Table:
  """A row for each student, and for networks that nothing trains."""
  config = job.config
  gains = gains_of(config, rows)

  def cells(title: str, values: Any, cost: Any, gain: str = "") -> list[str]:
    scores = [
      statistics.percent(values[name])
      if name in SHARES
      else statistics.mean_std(values[name], digits=3)
      for name in COLUMNS
    ]
    sizes = f"{cost['parameters'] / 1e6:.2f} M", f"{cost['megabytes']:.1f}"
    times = f"{cost['milliseconds']:.1f}"
    return [title, *scores, gain, *sizes, times]

  lines = []
  depth_of = {}
  for name, found in bounds.items():
    if name.endswith("_cut"):
      depth_of[int(name.split("_")[0])] = found
  teacher = bounds["teacher"]
  lines.append(cells("teacher", teacher["test"], teacher["cost"]))
  if found := bounds.get("published"):
    lines.append(cells(PUBLISHED, found["test"], found["cost"]))
  for depth, found in depth_of.items():
    title = Row(depth, "copied", "cut").title
    lines.append(cells(title, found["test"], found["cost"]))
    for row, values in rows.items():
      if row.depth == depth:
        gain = gains[row].cell() if row in gains else ""
        lines.append(cells(row.title, values, found["cost"], gain))
  header = ["", *COLUMNS.values(), "gain in 10 nearest"]
  header += ["parameters", "MB", "ms"]
  return tables.Table(header, lines, shown=(0, 1, 2, 3, 4, 5))


def read_table(job: Any) -> str:
  """The texts and how to read the table, in words."""
  config, data = job.config, job.data
  sizes = [len(x.tokens) for x in (data.train, data.validation, data.test)]
  texts = "Python's help and docstrings"
  if config.text:
    texts = "the files of --text"
  if config.more_text:
    texts += ", and those that only train of --more_text"
  published = (
    " The published encoder never saw this teacher; its cosine has no meaning, "
    "its neighbors have."
  )
  return (
    f"{statistics.over_seeds(config.seeds)} (the order of the "
    "sentences; of random students also the initial weights), on "
    f"{sizes[2]} test sentences of documents that nothing else has; "
    f"{sizes[0]} sentences of other documents train, {sizes[1]} show the "
    f"progress. The {data.documents} documents are of {texts}; a sentence has "
    f"{config.max_length} tokens at most. Cosine: of the embeddings of the "
    "student and the teacher. Nearest, 10 nearest: the share of a sentence's "
    "nearest test sentences that are the teacher's. Spearman: the rank "
    "correlation of the similarities of all pairs of sentences. Accuracy: the "
    f"document of a sentence by the nearest class mean of {config.shots} "
    f"labeled sentences each, of the {job.classes} largest test documents at "
    f"most. Each student takes {config.steps} updates of "
    f"{config.batch_size} sentences. The gain is over "
    f"*{reference_of(config).title}*, in points of the 10 nearest; without a "
    f"gain a row has another depth. {statistics.LEGEND} Milliseconds: one "
    "sentence at a time, the median, on this device, which may be busy."
    + (published if onnx_is_there(job) else "")
  )


def onnx_is_there(job: Any) -> bool:
  """Whether the published encoder is a row."""
  bounds = job.run.path / "cells" / "bounds.json"
  return '"published"' in bounds.read_text()


def conclude(config: Any, rows: Any, bounds: Any) -> list[str]:
  """The findings, in words."""
  reference = reference_of(config)
  values = rows[reference]
  before = bounds[f"{reference.depth}_copied_cut"]["test"]["cosine"]
  # A student of random weights does not begin as the cut one.
  began = "after" if reference.start == "copied" else "beside"
  cosine = values["cosine"].mean()
  reached = "reaches" if cosine >= GOAL else "misses"
  findings = [
    f"{reference.title}: cosine {cosine:.3f}, {began} {before:.3f} for the cut "
    f"student without training; it {reached} the goal of {GOAL:g}.",
  ]
  if published := bounds.get("published"):
    theirs = published["test"]["top10"]
    word = "more" if values["top10"].mean() > theirs else "fewer"
    findings.append(
      f"It shares {values['top10'].mean():.1%} of the 10 nearest sentences "
      f"with the teacher, {word} than {PUBLISHED} ({theirs:.1%})."
    )
  gains = {
    row.name: gain
    for row, gain in gains_of(config, rows).items()
    if row.start == reference.start
  }
  names = {row.name: methods.NAMES[row.method] for row in rows}
  findings += statistics.findings(gains, names, methods.NAMES[reference.method])
  for row in rows:
    copied = row._replace(start="copied")
    if row.start == "random" and copied in rows:
      gain = statistics.gain_of(rows[copied]["top10"], rows[row]["top10"])
      what = methods.NAMES[row.method]
      findings.append(
        gain.sentence(
          "Copied layers instead of random ones "
          f"({layers_in_words(row.depth)}, {what})"
        )
      )
  return findings


def draw(job: Any, results: dict[str, Any], rows: Any) -> dict[str, str]:
  """Saves the figure: progress, and nearest neighbors in common."""
  config = job.config
  bounds = results["bounds"]
  height = 2.6 + 0.3 * max(8, len(rows))
  every = config.evaluate_every
  steps = every * (1 + np.arange(config.steps // every))
  tints = {
    row: plots.SERIES[i % len(plots.SERIES)]
    for i, row in enumerate(shown_rows(config, rows))
  }
  with plots.figure(
    job.run.path / "students.png",
    title=headline(config, rows, bounds),
    columns=2,
    width=11.0,
    height=height,
  ) as (left, right):
    for row, colour in tints.items():
      seen = [x["history"]["cosine"] for x in results["rows"][row]]
      before = bounds.get(f"{row.depth}_copied_cut")
      x, y = steps, np.array(seen).T
      style = {"ls": "-" if row.start == "copied" else "--"}
      plots.band(left, x, y, row.title, colour, **style)
      if row.start == "copied" and before:
        left.plot(0, before["test"]["cosine"], "o", color=colour, ms=4)
    left.axhline(GOAL, color=plots.GREY, ls=":", lw=1.2)
    lowest = min(axes_low(results, row) for row in tints)
    left.set(xlabel="updates", ylabel="cosine with the teacher")
    left.set_ylim(min(0.0, lowest), 1)
    for i, (row, values) in enumerate(rows.items()):
      shares = values["top10"]
      colour = tints.get(row, plots.GREY)
      right.barh(i, shares.mean(), 0.64, color=colour, alpha=0.85, lw=0)
      right.plot(shares, np.full(len(shares), i), ".", color=plots.INK, ms=4)
    right.set_yticks(range(len(rows)), [row.title for row in rows])
    right.tick_params(axis="y", length=0, labelsize=8.5)
    right.grid(visible=False, axis="y")
    right.set(
      xlabel="10 nearest sentences in common with the teacher",
      xlim=(0, 1),
      ylim=(len(rows) - 0.4, -0.6),
    )
    right.xaxis.set_major_formatter(plots.percent)
    lines = []
    cut = bounds[f"{config.depths[0]}_copied_cut"]["test"]["top10"]
    lines.append(right.axvline(cut, color=plots.DARK, ls=":", lw=1.4))
    lines[-1].set_label("cut, without training")
    if published := bounds.get("published"):
      value = published["test"]["top10"]
      lines.append(right.axvline(value, color=plots.DARK, ls="--", lw=1.4))
      lines[-1].set_label(PUBLISHED)
    plots.legend((left, right), [*left.get_legend_handles_labels()[0], *lines])
  caption = (
    "Left: cosine with the teacher on validation sentences (dots: copied "
    "layers before training, on test sentences; dotted: the goal). Right: "
    "nearest test sentences in common with the teacher; means, and each seed "
    "as a dot."
  )
  return {"students.png": caption}


def axes_low(results: dict[str, Any], row: Row) -> float:
  """The lowest cosine of a row's history."""
  return float(np.min([x["history"]["cosine"] for x in results["rows"][row]]))


def shown_rows(config: Any, rows: Any) -> list[Row]:
  """The rows of the left panel: those of a few methods, of all depths."""
  few = dict.fromkeys((config.methods[0], "distilbert", "neighbors"))
  return [row for row in rows if row.method in few]


def headline(config: Any, rows: Any, bounds: Any) -> str:
  """The title of the figure."""
  reference = reference_of(config)
  cosine = rows[reference]["cosine"].mean()
  return f"{reference.title}: cosine {cosine:.3f} with the teacher"
