"""The table, the figures and the report of `experiments.adapt`."""

import functools
from typing import Any

import numpy as np

from experiments.adapt.methods import GROUP_OF
from experiments.adapt.methods import NAMES
from experiments.adapt.plots import KINDS
from experiments.adapt.plots import POINTS
from experiments.adapt.plots import divergence_curves
from experiments.adapt.plots import planes_of
from experiments.frame import plots
from experiments.frame import rules
from experiments.frame import statistics
from experiments.frame import tables

SHOWN = 4  # methods in the curves and scatter plots, the best on test images


def write(job: Any, rows: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table."""
  job.run.publish(
    job.console,
    f"From {job.config.source} to {describe_target(job.config)}",
    conclude(job.config, rows),
    make_table(job.config, rows),
    read_table(rows),
    *rules_table(job.config, rows),
    setting(job),
    draw(job, rows),
  )


def gains_of(config: Any, rows: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The methods' gains over source-only on target test images."""
  return statistics.compare(
    {method: rows[method].test_accuracy for method in config.methods},
    rows["source_only"].test_accuracy,
  )


def make_table(config: Any, rows: dict[str, Any]) -> tables.Table:
  """A row for each method."""
  gains = gains_of(config, rows)
  # The upper bound is no method: it is not in the correction.
  gains["target_only"] = statistics.gain_of(
    rows["target_only"].test_accuracy, rows["source_only"].test_accuracy
  )
  percent = functools.partial(statistics.mean_std, scale=100, digits=1)
  cells = [
    [
      NAMES[method],
      percent(row.test_accuracy),
      gains[method].cell() if method in gains else "",
      percent(row.validation["source_accuracy"][-1]),
      statistics.mean_std(row.validation["divergence"][-1]),
      "" if row.weight is None else f"{row.weight:g}",
      ""
      if row.weight is None
      else f"{row.oracle_weight:g}: {100 * row.oracle_accuracy.mean():.1f}",
    ]
    for method, row in rows.items()
  ]
  header = ["", "on target, %", "gain (95 % interval)", "on source, %", "d_H"]
  return tables.Table([*header, "weight", "oracle's"], cells)


def read_table(rows: dict[str, Any]) -> str:
  """How to read the table, in words."""
  null = max(row.null for row in rows.values())
  return (
    "Mean ± standard deviation over seeds, at the last step. Accuracy on "
    "target is of test images; the gain is over source-only. "
    f"{statistics.LEGEND} Accuracy on source and d_H, the H-divergence of the "
    "embeddings (0: no linear probe tells the domains apart, 2: one always "
    "does), are of validation images; domains that do not differ have a d_H of "
    f"up to {null:.2f} in 95 of 100 permutations. The last column **uses "
    "target labels**, those of validation images: the weight that an oracle "
    "would have chosen, and its accuracy on target. Target-only was trained "
    "with target labels: the upper bound of adaptation."
  )


def conclude(config: Any, rows: dict[str, Any]) -> list[str]:
  """The findings, in words."""
  source, target = (rows[name] for name in ("source_only", "target_only"))
  findings = [
    "Source-only reaches an accuracy of "
    f"{source.validation['source_accuracy'][-1].mean():.1%} on the source and "
    f"of {source.test_accuracy.mean():.1%} on the target, where training with "
    f"its labels reaches {target.test_accuracy.mean():.1%}."
  ]
  gains = gains_of(config, rows)
  findings += statistics.findings(gains, NAMES, "source-only")
  distances = {
    method: rows[method].validation["divergence"][-1].mean()
    for method in ("source_only", *config.methods)
  }
  before = distances.pop("source_only")
  nearest = min(distances, key=lambda method: distances[method])
  findings.append(
    f"d_H of source-only is {before:.2f}; {NAMES[nearest]} has the least, "
    f"{distances[nearest]:.2f}."
  )
  if weighed := weighed_rows(config, rows):
    lost = np.mean(
      [row.oracle_accuracy.mean() - row.test_accuracy.mean() for row in weighed]
    )
    wrong = sum(row.weight != row.oracle_weight for row in weighed)
    findings.append(
      f"Choosing the weight without target labels cost {100 * lost:.1f} "
      f"points of target accuracy, the mean over {len(weighed)} methods; "
      f"an oracle with target labels would have chosen another weight for "
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
    rule: np.mean([row.by_rule[rule] for row in weighed])
    for rule in rules.RULES
  }
  best = np.mean([row.oracle_accuracy.mean() for row in weighed])
  cells = [
    [f"**{rule}**" if rule == config.select else rule, f"{100 * mean:.1f}"]
    for rule, mean in sorted(reached.items(), key=lambda pair: -pair[1])
  ]
  cells.insert(0, ["oracle, with target labels", f"{100 * best:.1f}"])
  return [
    "## Choosing without target labels",
    f"Mean accuracy on target over {len(weighed)} methods, had their weights "
    "been chosen by another rule. The rule of this run is in bold.",
    tables.Table(["rule", "on target, %"], cells, shown=()),
  ]


def describe_target(config: Any) -> str:
  """The target and its shift, in words."""
  details = {
    "rotate": f", rotated by {config.degrees:g} degrees",
    "invert": ", inverted",
    "blend_noise": f", blended with noise of strength {config.strength:g}",
  }
  return f"{config.target}{details.get(config.shift, '')}"


def setting(job: Any) -> str:
  """The images and how the weights were chosen, in words."""
  config, data = job.config, job.data
  source, target = data.train_sizes
  weights = ", ".join(f"{weight:g}" for weight in config.weights)
  chosen_by = data.validation_sizes
  return (
    "## The setting\n\n"
    f"Each student ({config.network}) saw {source} labelled source images and "
    f"{target} unlabelled target images, {config.batch_size} of each in a "
    "batch; no image is in both domains. Seed i starts from the same weights "
    "and sees the same batches under every method. The published weight of "
    f"the transfer loss is multiplied by {weights}. The factor of each method "
    f"was chosen by this rule: {rules.RULES[config.select]} (means over seeds, "
    f"at the last step), of {chosen_by[0]} source and {chosen_by[1]} target "
    f"validation images. The {len(data.test['label'])} target test images "
    "chose nothing."
  )


def draw(job: Any, rows: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path = job.config, job.run.path
  gains = gains_of(config, rows)
  ranked = sorted(gains, key=lambda method: -gains[method].mean)
  plots.accuracy_bars(
    path / "accuracy.png",
    {NAMES[method]: row.test_accuracy for method, row in rows.items()},
    groups={NAMES[method]: GROUP_OF[method] for method in rows},
    colours=KINDS,
    oracles={
      NAMES[method]: row.oracle_accuracy
      for method, row in rows.items()
      if row.weight is not None
    },
    oracle_label="weight chosen with target labels",
    reference=NAMES["source_only"],
    title=statistics.headline(gains, NAMES, "source-only"),
  )
  shown = {m for m in rows if m not in config.methods} | set(ranked[:SHOWN])
  divergences = {
    method: row.validation["divergence"]
    for method, row in rows.items()
    if method in shown
  }
  nearest = min(
    (m for m in divergences if m in config.methods),
    key=lambda x: divergences[x][-1].mean(),
  )
  divergence_curves(
    path / "divergence.png",
    config.evaluate_every * np.arange(1, len(divergences[nearest]) + 1),
    {NAMES[method]: values for method, values in divergences.items()},
    null=max(row.null for row in rows.values()),
    title=f"{NAMES[nearest]} brings the domains closest, to a d_H of "
    f"{divergences[nearest][-1].mean():.2f}",
  )
  labels = np.asarray(job.data.validation["label"])
  labels = np.split(labels, job.data.validation_sizes[:1])
  labels = [part[:POINTS] for part in labels]
  plots.embedding_maps(
    path / "embeddings.png",
    {
      f"{NAMES[method]}, d_H {values[-1, 0]:.2f}": list(
        zip(planes_of(rows[method].embeddings), labels, strict=True)
      )
      for method, values in divergences.items()
    },
    markers={
      "source": {"s": 26, "alpha": 0.3, "lw": 0},
      "target": {"s": 26, "marker": "x", "lw": 1.3},
    },
    title="Embeddings of both domains, coloured by class",
  )
  return {
    "accuracy.png": "Accuracy on target test images: means with 95 % "
    "intervals, and each seed as a dot. Diamonds: had the weight been chosen "
    "with target labels. Dashed: source-only.",
    "divergence.png": "H-divergence of the embeddings of validation images: "
    "mean over seeds in a band of one standard deviation; of at most "
    f"{SHOWN} methods, the best on test images.",
    "embeddings.png": "The first seed's embeddings of validation images on "
    f"their two principal components, up to {POINTS} of each domain. Target "
    "labels are used for the colours only.",
  }
