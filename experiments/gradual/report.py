"""The table, the figure and the report of `experiments.gradual`."""

from typing import Any

import numpy as np

from experiments.frame import plots, statistics, tables
from experiments.gradual.training import RULES

LOOKS = {
  "source_only": ("source-only", plots.RED),
  "gradual": ("gradual", plots.BLUE),
  "undropped": ("gradual with all labels", plots.SKY),
  "pooled": ("all at once", plots.PINK),
  "target": ("target at once", plots.ORANGE),
  "generated": ("generated domains", plots.GREEN),
  "target_only": ("target-only", plots.DARK),
}
NAMES = {method: name for method, (name, _) in LOOKS.items()}


def write(job: Any, rows: dict[str, Any]) -> None:
  """Draws the figure, writes report.md and prints the table."""
  job.run.publish(
    job.console,
    f"{job.config.dataset}, turned from 0 to {job.config.degrees:g} degrees",
    conclude(rows),
    make_table(rows),
    READING,
    setting(job),
    draw(job, rows),
  )


def gains_of(rows: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The gains over source-only at the end on target test images."""
  return statistics.compare(
    {name: rows[name].accuracy for name in methods_of(rows)},
    rows["source_only"].accuracy,
  )


def methods_of(rows: dict[str, Any]) -> list[str]:
  """The ways of self-training."""
  return [name for name in rows if name not in ("source_only", "target_only")]


def make_table(rows: dict[str, Any]) -> tables.Table:
  """A row for each method."""
  percent, methods = statistics.percent, methods_of(rows)
  scores = {name: row.accuracy for name, row in rows.items()}
  gains = statistics.compare_bounded(scores, "source_only", "target_only")

  def stop(name: str, rule: str) -> str:
    if name not in methods:
      return ""
    chosen, score = getattr(rows[name], rule), rows[name].seen[RULES[rule]]
    return f"{percent(chosen)} ({describe_rounds(score)})"

  columns = {
    "": lambda name: NAMES[name],
    "on target, %": lambda name: percent(scores[name]),
    "gain (95 % interval)": lambda name: statistics.cell(gains, name),
    "stop chosen (round)": lambda name: stop(name, "information"),
    "oracle's (round)": lambda name: stop(name, "oracle"),
    "at 0 degrees, %": lambda name: percent(rows[name].by_angle[0]),
  }
  return tables.of_rows(rows, columns, shown=(0, 1, 2, 5))


def describe_rounds(scores: np.ndarray) -> str:
  """The rounds with the best scores `[1 + rounds, seeds]`, over seeds."""
  rounds = np.argmax(scores, 0)
  low, high = rounds.min(), rounds.max()
  return f"{low}" if low == high else f"{low} to {high}"


READING = (
  "Mean ± standard deviation over seeds, in percent of target test images. The "
  "first column is after the last round, as published; the gain is over "
  f"source-only. {statistics.LEGEND} A run may also stop earlier, or not begin "
  "(round 0): where the mutual information of the target's validation images "
  "and their predicted classes is largest, which takes no label, or where the "
  "accuracy on them is, for which the oracle's column **uses target labels**. "
  "Target-only is trained as source-only is, on the same images turned as the "
  "target's are, with their labels. The last column is of test images that are "
  "not turned."
)


def conclude(rows: dict[str, Any]) -> list[str]:
  """The findings, in words."""
  source, target = rows["source_only"], rows["target_only"]
  methods = methods_of(rows)
  findings = [
    "Source-only reaches an accuracy of "
    f"{source.by_angle[0].mean():.1%} at 0 degrees and of "
    f"{source.accuracy.mean():.1%} on the target, where training with its "
    f"labels reaches {target.accuracy.mean():.1%}."
  ]
  findings += statistics.findings(gains_of(rows), NAMES, "source-only")
  if {"gradual", "pooled"} <= set(methods):
    order = statistics.gain_of(
      rows["gradual"].accuracy, rows["pooled"].accuracy
    )
    findings.append(order.sentence("The order of the angles"))
  lost = ", ".join(
    f"{100 * (rows[name].oracle - rows[name].information).mean():.1f} "
    f"({NAMES[name]})"
    for name in methods
  )
  findings.append(
    "Choosing where to stop without target labels cost, in points of target "
    f"accuracy: {lost}."
  )
  return findings


def setting(job: Any) -> str:
  """The images and the rounds, in words."""
  config = job.config
  return (
    "## The setting\n\n"
    f"Source-only saw {config.source_examples} labelled images, turned by 0 to "
    f"{config.spread:g} degrees, {config.source_epochs} times. Each way of "
    f"self-training went on from it, with a new state of Adam, for "
    f"{config.blocks} rounds of {config.block_examples} unlabelled images: it "
    "predicted their labels, dropped the "
    f"{config.drop:.0%} of the least confident predictions (one way: none) and "
    f"passed over the others {config.epochs} times. *Gradual* saw them in the "
    "order of their angles, *all at once* saw the same images shuffled, "
    "*target at once* saw the same images turned by "
    f"{config.degrees - config.spread:g} to {config.degrees:g} degrees, the "
    "target's angles; Kumar et al. let these two learn all images in each "
    "round, which takes as many times the updates as there are rounds, and "
    "here they take no more than gradual. "
    "*Generated domains* used no image between: it "
    "interpolated, along an optimal transport plan, between the embeddings "
    "that source-only has of source and target images, and trained the "
    "classifier on them. Seed i starts from the same weights under every "
    "method; images and angles are the same for all seeds. "
    f"{config.validation_examples} target validation images chose where to "
    f"stop, the {len(job.data.test['label'])} test images nothing."
  )


def draw(job: Any, rows: dict[str, Any]) -> dict[str, str]:
  """Saves the figure: accuracy over angles and over rounds."""
  config = job.config
  degrees = np.linspace(0, config.degrees, len(rows["source_only"].by_angle))
  title = statistics.headline(gains_of(rows), NAMES, "source-only")
  with plots.figure(
    job.run.path / "angles.png", title=title, columns=2, width=9.6, height=4.6
  ) as (left, right):
    for name, row in rows.items():
      style = "--" if name == "target_only" else "-"
      plots.band(left, degrees, row.by_angle, *LOOKS[name], ls=style)
      if name in methods_of(rows):
        accuracy = row.seen["accuracy"]
        plots.band(right, np.arange(len(accuracy)), accuracy, *LOOKS[name])
    for x, sign, text in ((0, 1, "source"), (config.degrees, -1, "target")):
      ends = x, x + sign * config.spread
      left.axvspan(*ends, color=plots.FAINT, alpha=0.6, lw=0)
      align = "left" if sign > 0 else "right"
      left.text(x, 0.02, text, ha=align, color="#737373")
    left.set(xlabel="degrees", ylabel="accuracy", xlim=(0, config.degrees))
    right.set(
      xlabel="rounds of self-training",
      ylabel="accuracy on the target",
      xlim=(0, config.blocks),
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
      axes.set_ylim(0, 1)
      axes.yaxis.set_major_formatter(plots.percent)
    plots.legend(left)
  caption = (
    "Left: every model at the end, on test images turned by each angle. Right: "
    "accuracy on the target's validation images after each round of "
    "self-training. Means over seeds in a band of one standard deviation."
  )
  return {"angles.png": caption}
