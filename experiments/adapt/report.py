"""The tables and the words of the report of `experiments.adapt`."""

from typing import Any

import numpy as np

from experiments.adapt.methods import NAMES
from experiments.adapt.plots import draw
from experiments.frame import rules
from experiments.frame import statistics
from experiments.frame import tables


def write(job: Any, rows: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table."""
  config, data = job.config, job.data
  shift = {
    "rotate": f", rotated by {config.degrees:g} degrees",
    "invert": ", inverted",
    "blend_noise": f", blended with noise of strength {config.strength:g}",
  }.get(config.shift, "")
  null = max(row.null for row in rows.values())
  source, target = data.train_sizes
  weights = ", ".join(f"{weight:g}" for weight in config.weights)
  source_size, target_size = data.validation_sizes
  job.run.publish(
    job.console,
    f"From {config.source} to {config.target}{shift}",
    conclude(config, rows),
    make_table(rows),
    "Mean ± standard deviation over seeds, at the last step. Accuracy on "
    "target is of test images; the gain is over source-only. "
    f"{statistics.LEGEND} Accuracy on source and d_H, the H-divergence of the "
    "embeddings (0 to 2), are of validation images; of domains that do not "
    f"differ d_H stays below {null:.2f} in 95 of 100 permutations. The last "
    "column **uses target labels**: the weight that an oracle would have "
    "chosen, and its accuracy. Target-only was trained with target labels: "
    "the upper bound of adaptation.",
    *rules_table(config, rows),
    "## The setting",
    f"Each student ({config.network}) saw {source} labelled source images and "
    f"{target} unlabelled target images, {config.batch_size} of each in a "
    "batch; no image is in both domains. Seed i has the same initial weights "
    "and batches under every method. The published weight of the transfer loss "
    f"is multiplied by {weights}. The factor was chosen by this rule: "
    f"{rules.RULES[config.select]} (means over seeds, at the last step), of "
    f"{source_size} source and {target_size} target validation images. The "
    f"{len(data.test['label'])} target test images chose nothing.",
    draw(job, rows, gains_of(config, rows)),
  )


def gains_of(config: Any, rows: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The gains of the methods over source-only on target test images."""
  scores = {name: rows[name].test_accuracy for name in config.methods}
  return statistics.compare(scores, rows["source_only"].test_accuracy)


def make_table(rows: dict[str, Any]) -> tables.Table:
  """A row for each method."""
  accuracy = {name: row.test_accuracy for name, row in rows.items()}
  gains = statistics.compare_bounded(accuracy, "source_only", "target_only")

  def last(method: str, score: str) -> np.ndarray:
    return rows[method].validation[score][-1]

  def weight(method: str) -> str:
    chosen = rows[method].weight
    return "" if chosen is None else f"{chosen:g}"

  def oracle(method: str) -> str:
    best, reached = rows[method].oracle_weight, rows[method].oracle_accuracy
    return "" if best is None else f"{best:g}: {100 * reached.mean():.1f}"

  columns = {
    "": lambda x: NAMES[x],
    "on target, %": lambda x: statistics.percent(accuracy[x]),
    "gain (95 % interval)": lambda x: statistics.cell(gains, x),
    "on source, %": lambda x: statistics.percent(last(x, "source_accuracy")),
    "d_H": lambda x: statistics.mean_std(last(x, "divergence")),
    "weight": weight,
    "oracle's": oracle,
  }
  return tables.of_rows(rows, columns, shown=(0, 1, 2, 4))


def conclude(config: Any, rows: dict[str, Any]) -> list[str]:
  """The findings, in words."""
  source, target = rows["source_only"], rows["target_only"]
  findings = [
    "Source-only reaches an accuracy of "
    f"{source.validation['source_accuracy'][-1].mean():.1%} on the source and "
    f"of {source.test_accuracy.mean():.1%} on the target, where training with "
    f"its labels reaches {target.test_accuracy.mean():.1%}."
  ]
  gains = gains_of(config, rows)
  findings += statistics.findings(gains, NAMES, "source-only")

  def distance(method: str) -> float:
    return rows[method].validation["divergence"][-1].mean()

  nearest = min(config.methods, key=distance)
  findings.append(
    f"d_H of source-only is {distance('source_only'):.2f}; {NAMES[nearest]} "
    f"has the least, {distance(nearest):.2f}."
  )
  if weighed := weighed_rows(config, rows):
    lost = np.mean([x.oracle_accuracy - x.test_accuracy for x in weighed])
    wrong = sum(row.weight != row.oracle_weight for row in weighed)
    findings.append(
      f"Choosing the weight without target labels cost {100 * lost:.1f} "
      f"points of target accuracy, the mean over {len(weighed)} methods; "
      "an oracle with target labels would have chosen another weight for "
      f"{wrong} of them."
    )
  return findings


def weighed_rows(config: Any, rows: dict[str, Any]) -> list[Any]:
  """The rows of the methods that have a weight to choose."""
  of_methods = (rows[name] for name in config.methods)
  return [row for row in of_methods if row.weight is not None]


def rules_table(config: Any, rows: dict[str, Any]) -> list[Any]:
  """The accuracy that each rule of choice would have reached."""
  weighed = weighed_rows(config, rows)
  if not weighed:
    return []
  reached = {
    x: np.mean([row.by_rule[x] for row in weighed]) for x in rules.RULES
  }
  best = np.mean([row.oracle_accuracy for row in weighed])
  cells = [["oracle, with target labels", f"{100 * best:.1f}"]]
  for rule in sorted(reached, key=lambda rule: -reached[rule]):
    name = f"**{rule}**" if rule == config.select else rule
    cells.append([name, f"{100 * reached[rule]:.1f}"])
  return [
    "## Choosing without target labels",
    f"Mean accuracy on target over {len(weighed)} methods, had their weights "
    "been chosen by another rule. The rule of this run is in bold.",
    tables.Table(["rule", "on target, %"], cells, shown=()),
  ]
