"""The tables, the figures and the report of `experiments.adapt`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.adapt.methods import GROUP_OF, NAMES
from experiments.frame import plots, rules, statistics, tables

# One color for each kind of method.
KINDS = {
  "bounds": plots.DARK,
  "discrepancy": plots.GREEN,
  "adversarial": plots.BLUE,
  "predictions": plots.ORANGE,
  "self-training": plots.PINK,
  "inputs": plots.SKY,
  "instance weights": plots.BROWN,
  "closed-form maps": plots.GREY,
}
SHOWN = 4  # methods in the curves and scatter plots, the best on test images
POINTS = 200  # of a domain in a scatter plot; more would hide each other


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
    draw(job, rows),
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
    lost = [x.oracle_accuracy.mean() - x.test_accuracy.mean() for x in weighed]
    wrong = sum(row.weight != row.oracle_weight for row in weighed)
    findings.append(
      "Choosing the weight without target labels cost "
      f"{100 * np.mean(lost):.1f} points of target accuracy, the mean over "
      f"{len(weighed)} methods; an oracle with target labels would have chosen "
      f"another weight for {wrong} of them."
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


def draw(job: Any, rows: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path = job.config, job.run.path
  gains = gains_of(config, rows)
  named = {NAMES[method]: row for method, row in rows.items()}
  weighed = {name: row for name, row in named.items() if row.weight is not None}
  plots.accuracy_bars(
    path / "accuracy.png",
    {name: row.test_accuracy for name, row in named.items()},
    groups={NAMES[method]: GROUP_OF[method] for method in rows},
    colours=KINDS,
    oracles={name: row.oracle_accuracy for name, row in weighed.items()},
    oracle_label="weight chosen with target labels",
    reference=NAMES["source_only"],
    title=statistics.headline(gains, NAMES, "source-only"),
  )
  ranked = sorted(gains, key=lambda method: -gains[method].mean)
  ranked = [NAMES[method] for method in ranked]
  best, hidden = ranked[:SHOWN], ranked[SHOWN:]
  shown = {name: row for name, row in named.items() if name not in hidden}
  curves = {name: x.validation["divergence"] for name, x in shown.items()}
  nearest = min(best, key=lambda name: curves[name][-1].mean())
  divergence_curves(
    path / "divergence.png",
    config.evaluate_every * np.arange(1, len(curves[nearest]) + 1),
    curves,
    null=max(row.null for row in rows.values()),
    title=f"{nearest} brings the domains closest, to a d_H of "
    f"{curves[nearest][-1].mean():.2f}",
  )
  labels = np.asarray(job.data.validation["label"])
  labels = np.split(labels, job.data.validation_sizes[:1])
  plots.embedding_maps(
    path / "embeddings.png",
    {
      f"{name}, d_H {curves[name][-1, 0]:.2f}": planes(row.embeddings, labels)
      for name, row in shown.items()
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


def divergence_curves(
  path: plots.Path,
  steps: np.ndarray,
  curves: Mapping[str, np.ndarray],
  *,
  null: float,
  title: str,
) -> None:
  """H-divergence `[evaluations, seeds]` over steps; `null` is of no shift."""
  with plots.figure(path, title=title, width=7.2, height=4.6) as axes:
    axes.axhspan(0, null, color=plots.FAINT, alpha=0.5, lw=0)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right"}
    axes.text(0.99, null / 2, "no shift", va="center", color="#737373", **place)
    for colour, (name, values) in zip(
      plots.SERIES, curves.items(), strict=False
    ):
      style = "--" if name == "target-only" else "-"
      plots.band(axes, steps, values, name, colour, ls=style, marker=".")
    # One evaluation alone is a point in the middle.
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (0, 2 * steps[0])
    axes.set(xlabel="training step", xlim=ends, ylim=(0, 2.05))
    axes.set_ylabel("H-divergence of the embeddings")
    plots.legend(axes)


def planes(
  domains: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Embeddings `[n, d]` on two common principal components, with labels."""
  pooled = np.concatenate(domains)
  centre = pooled.mean(0)
  _, _, directions = np.linalg.svd(pooled - centre, full_matrices=False)
  return [
    ((x - centre)[:POINTS] @ directions[:2].T, y[:POINTS])
    for x, y in zip(domains, labels, strict=True)
  ]
