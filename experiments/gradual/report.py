"""The table, the figure and the report of `experiments.gradual`."""

from typing import Any

import numpy as np

from experiments.frame import commands
from experiments.frame import plots
from experiments.frame import statistics
from experiments.gradual.training import RULES
from kdjax import adaptation

NAMES = {
  "source_only": "source-only",
  "gradual": "gradual",
  "undropped": "gradual with all labels",
  "pooled": "all at once",
  "target": "target at once",
  "generated": "generated domains",
  "target_only": "target-only",
}
# What is said of the methods with a verdict.
WORDS = {
  "helped": "helped",
  "hurt": "hurt, so that transfer was negative",
  "unclear": "unclear",
}
# Okabe and Ito's palette, as in `frame.plots`.
COLOURS = {
  "source_only": "#d55e00",
  "gradual": "#0072b2",
  "undropped": "#56b4e9",
  "pooled": "#cc79a7",
  "target": "#e69f00",
  "generated": "#009e73",
  "target_only": "#3d3d3d",
}


def write(job: Any, rows: dict[str, Any]) -> None:
  """Draws the figure, writes report.md and prints the table.

  Args:
    job: the `Job` of the experiment.
    rows: what its `main` returns.
  """
  draw(job, rows)
  header, cells = make_table(rows)
  findings = conclude(job.config, rows)
  caption = (
    "Left: every model at the end, on test images turned by each angle. Right: "
    "accuracy on the target's validation images after each round of "
    "self-training. Means over seeds in a band of one standard deviation."
  )
  file = job.run.report(
    f"# {job.config.dataset}, turned from 0 to {job.config.degrees:g} degrees",
    "\n".join(f"- {finding}" for finding in findings),
    commands.markdown_table(header, cells),
    READING,
    setting(job),
    f"![{caption}](angles.png)\n\n{caption}",
  )
  job.console.print(commands.console_table(header, cells))
  for finding in findings:
    job.console.print(f"- {finding}", highlight=False)
  job.console.print(f"Report, plot and checkpoints: {file.parent}")


def gain_of(
  method: str, rows: dict[str, Any], over: str = "source_only"
) -> statistics.Interval:
  """The gain at the end on target test images, paired by seed."""
  return statistics.paired_interval(rows[method].accuracy, rows[over].accuracy)


def methods_of(rows: dict[str, Any]) -> list[str]:
  """The ways of self-training."""
  return [name for name in rows if name not in ("source_only", "target_only")]


def make_table(rows: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of the final table."""

  def percent(values):
    return statistics.mean_std(values, scale=100, digits=1)

  cells = []
  for name, row in rows.items():
    gain, stops = "", ["", ""]
    if name != "source_only":
      ends = (100 * x for x in gain_of(name, rows))
      gain = statistics.gain(statistics.Interval(*ends), 1)
    if name in methods_of(rows):
      stops = [
        f"{percent(values)} ({describe_rounds(row.seen[score])})"
        for values, score in zip(
          (row.chosen, row.oracle),
          RULES.values(),
          strict=True,
        )
      ]
    cells.append(
      [
        NAMES[name],
        percent(row.accuracy),
        gain,
        *stops,
        percent(row.by_angle[0]),
      ]
    )
  header = [
    "",
    "on target, %",
    "gain (95 % interval)",
    "stop chosen (round)",
    "oracle's (round)",
    "at 0 degrees, %",
  ]
  return header, cells


def describe_rounds(scores: np.ndarray) -> str:
  """The rounds with the best scores `[1 + rounds, seeds]`, over seeds."""
  rounds = np.argmax(scores, 0)
  low, high = rounds.min(), rounds.max()
  return f"{low}" if low == high else f"{low} to {high}"


READING = (
  "Mean ± standard deviation over seeds, in percent of target test images. The "
  "first column is after the last round, as published; the gain is over "
  "source-only, paired by seed, with its t interval. A run may also stop "
  "earlier, or not begin (round 0): where the mutual information of the "
  "target's validation images and their predicted classes is largest, which "
  "takes no label, or where the accuracy on them is, for which the oracle's "
  "column **uses target labels**. Target-only is trained as source-only is, on "
  "the same images turned as the target's are, with their labels. The last "
  "column is of test images that are not turned: what is left of the source."
)


def conclude(config: Any, rows: dict[str, Any]) -> list[str]:
  """What came out, in words."""
  source, target = rows["source_only"], rows["target_only"]
  methods = methods_of(rows)
  findings = [
    "Source-only reaches an accuracy of "
    f"{source.by_angle[0].mean():.1%} at 0 degrees and of "
    f"{source.accuracy.mean():.1%} on the target, where training with its "
    f"labels reaches {target.accuracy.mean():.1%}."
  ]
  findings += [
    statistics.verdict(NAMES[name].capitalize(), gain_of(name, rows))
    for name in methods
  ]
  if config.seeds > 1:
    test = adaptation.negative_transfer_test(
      np.stack([rows[name].accuracy for name in methods]), source.accuracy
    )
    verdict = dict(zip(methods, test.verdict, strict=True))
    groups = {
      text: [NAMES[name] for name in methods if verdict[name] == word]
      for word, text in WORDS.items()
    }
    said = "; ".join(
      f"{text}: {', '.join(x)}" for text, x in groups.items() if x
    )
    findings.append(f"With Holm's correction for all methods, {said}.")
  if {"gradual", "pooled"} <= set(methods):
    findings.append(
      statistics.verdict(
        "To take the same images in the order of their angles",
        gain_of("gradual", rows, over="pooled"),
      )
    )
  lost = ", ".join(
    f"{100 * (rows[name].oracle - rows[name].chosen).mean():.1f} "
    f"({NAMES[name]})"
    for name in methods
  )
  findings.append(
    "To choose where to stop without target labels cost, in points of target "
    f"accuracy: {lost}."
  )
  return findings


def setting(job: Any) -> str:
  """Who saw what, in words."""
  config = job.config
  return (
    "## The setting\n\n"
    f"Source-only saw {config.source_examples} labelled images, turned by 0 to "
    f"{config.spread:g} degrees, {config.source_epochs} times. Each way of "
    f"self-training went on from it, with a new state of Adam, for "
    f"{config.blocks} rounds of {config.block_examples} unlabelled images: it "
    "labelled them by itself, dropped the "
    f"{config.drop:.0%} that it was least sure of (one way: none) and passed "
    f"over the others {config.epochs} times. *Gradual* met them in the order "
    "of their angles, *all at once* met the same images shuffled, *target at "
    "once* met the same images turned by "
    f"{config.degrees - config.spread:g} to {config.degrees:g} degrees, the "
    "target's angles; Kumar et al. let these two learn all images in each "
    "round, which takes as many times the updates as there are rounds, and "
    "here they take no more than gradual. "
    "*Generated domains* used nothing between: it "
    "interpolated, along an optimal transport plan, between the embeddings "
    "that source-only has of source and target images, and trained the "
    "classifier on them. Seed i starts from the same weights under every "
    "method; images and angles are the same for all seeds. "
    f"{config.validation_examples} target validation images chose where to "
    f"stop, the {len(job.data.test['label'])} test images nothing."
  )


def draw(job: Any, rows: dict[str, Any]) -> None:
  """Saves the figure: accuracy over angles and over rounds."""
  config = job.config
  degrees = np.linspace(0, config.degrees, len(rows["source_only"].by_angle))
  best = max(methods_of(rows), key=lambda name: rows[name].accuracy.mean())
  gain = gain_of(best, rows)
  title = "No way of self-training surely beats source-only"
  if not statistics.is_known(gain):
    title = statistics.ONE_SEED.capitalize()
  elif gain.low > 0:
    title = (
      f"{NAMES[best].capitalize()}: {100 * gain.mean:+.1f} points on the target"
    )
  with plots.figure(
    job.run.path / "angles.png", columns=2, width=9.6, height=4.4
  ) as (canvas, (left, right)):
    canvas.suptitle(title, x=0.015, ha="left")
    for name, row in rows.items():
      _band(left, degrees, row.by_angle, name)
      if name in methods_of(rows):
        accuracy = row.seen["accuracy"]
        _band(right, np.arange(len(accuracy)), accuracy, name)
    left.axvspan(0, config.spread, color=plots.FAINT, alpha=0.6, lw=0)
    left.axvspan(
      config.degrees - config.spread,
      config.degrees,
      color=plots.FAINT,
      alpha=0.6,
      lw=0,
    )
    for x, ha, text in (
      (0, "left", "source"),
      (config.degrees, "right", "target"),
    ):
      left.text(x, 0.02, text, ha=ha, color="#737373")
    left.set(xlabel="degrees", ylabel="accuracy", xlim=(0, config.degrees))
    right.set(
      xlabel="rounds of self-training",
      ylabel="accuracy on the target",
      xlim=(0, config.blocks),
    )
    for axes in (left, right):
      axes.set_ylim(0, 1)
      axes.yaxis.set_major_formatter(plots.percent)
    handles, names = left.get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=4)


def _band(axes: Any, x: np.ndarray, values: np.ndarray, name: str) -> None:
  """The mean over seeds `[points, seeds]` in a band of one deviation."""
  mean, deviation = values.mean(1), values.std(1)
  axes.fill_between(
    x,
    mean - deviation,
    mean + deviation,
    color=COLOURS[name],
    alpha=0.18,
    lw=0,
  )
  dashed = "--" if name == "target_only" else "-"
  axes.plot(x, mean, dashed, color=COLOURS[name], label=NAMES[name])
