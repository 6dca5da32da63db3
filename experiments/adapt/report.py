"""The table, the figures and the report of `experiments.adapt`."""

from typing import Any

import numpy as np

from experiments.adapt.methods import METHODS
from experiments.adapt.plots import SHOWN as POINTS
from experiments.adapt.plots import accuracy_bars
from experiments.adapt.plots import divergence_curves
from experiments.adapt.plots import embedding_scatter
from experiments.frame import commands
from experiments.frame import statistics
from kdjax import adaptation

NAMES = {name: method.name for name, method in METHODS.items()}
RULES = {
  "source_accuracy": "accuracy on source validation images",
  "information": "mutual information of target validation images and their "
  "predicted classes",
  "guarded": "mutual information of target validation images and their "
  "predicted classes, among weights whose accuracy on source validation images "
  "is within 2 points of the best",
  "entropy": "low entropy of the predictions for target validation images",
  "bnm": "nuclear norm of the predictions for target validation images",
  "snd": "dense neighbourhoods among the predictions for target validation "
  "images",
  "importance_weighted": "risk on source validation images, weighted like the "
  "target's",
  "dev": "risk on source validation images, weighted like the target's, with "
  "a control variate",
  "reverse": "accuracy on source validation images of a new student that "
  "learned the predicted labels of the target's",
}
SHOWN = 4  # methods in the curves and scatter plots, the best on test images


def write(job: Any, rows: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table.

  Args:
    job: the `Job` of the experiment.
    rows: what its `main` returns.
  """
  figures = draw(job, rows)
  header, cells = make_table(rows)
  findings = conclude(job.config, rows)
  file = job.run.report(
    f"# From {job.config.source} to {describe_target(job.config)}",
    "\n".join(f"- {finding}" for finding in findings),
    commands.markdown_table(header, cells),
    read_table(rows),
    rules_table(job.config, rows),
    setting(job),
    *(
      f"![{caption}]({name})\n\n{caption}" for name, caption in figures.items()
    ),
  )
  job.console.print(commands.console_table(header, cells))
  for finding in findings:
    job.console.print(f"- {finding}", highlight=False)
  job.console.print(f"Report, plots and checkpoints: {file.parent}")


def gain_of(method: str, rows: dict[str, Any]) -> statistics.Interval:
  """The gain over source-only on target test images, paired by seed."""
  return statistics.paired_interval(
    rows[method].test_accuracy,
    rows["source_only"].test_accuracy,
  )


def make_table(rows: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of the final table."""
  cells = []
  for method, row in rows.items():
    last = {name: values[-1] for name, values in row.validation.items()}
    gain, weight, oracle = "", "", ""
    if method != "source_only":
      ends = (100 * x for x in gain_of(method, rows))
      gain = statistics.gain(statistics.Interval(*ends), 1)
    if row.weight is not None:
      accuracy = 100 * row.oracle_accuracy.mean()
      weight = f"{row.weight:g}"
      oracle = f"{row.oracle_weight:g}: {accuracy:.1f}"
    cells.append(
      [
        NAMES[method],
        statistics.mean_std(row.test_accuracy, scale=100, digits=1),
        gain,
        statistics.mean_std(last["source_accuracy"], scale=100, digits=1),
        statistics.mean_std(last["divergence"]),
        weight,
        oracle,
      ]
    )
  header = [
    "",
    "on target, %",
    "gain (95 % interval)",
    "on source, %",
    "d_H",
    "weight",
    "oracle's",
  ]
  return header, cells


def read_table(rows: dict[str, Any]) -> str:
  """How to read the table, in words."""
  null = max(row.null for row in rows.values())
  return (
    "Mean ± standard deviation over seeds, at the last step. Accuracy on "
    "target is of test images; the gain is over source-only, paired by seed, "
    "with its t interval. Accuracy on source and d_H, the H-divergence of the "
    "embeddings (0: no linear probe tells the domains apart, 2: one always "
    "does), are of validation images; domains that do not differ have a d_H of "
    f"up to {null:.2f} in 95 of 100 permutations. The last column **uses "
    "target labels**, those of validation images: the weight that an oracle "
    "would have chosen, and its accuracy on target. Target-only was trained "
    "with target labels: what adaptation can hope for."
  )


def conclude(config: Any, rows: dict[str, Any]) -> list[str]:
  """What came out, in words."""
  source, target = (rows[name] for name in ("source_only", "target_only"))
  findings = [
    "Source-only reaches an accuracy of "
    f"{source.validation['source_accuracy'][-1].mean():.1%} on the source and "
    f"of {source.test_accuracy.mean():.1%} on the target, where training with "
    f"its labels reaches {target.test_accuracy.mean():.1%}."
  ]
  findings += verdicts(config, rows)
  distances = {
    method: rows[method].validation["divergence"][-1].mean()
    for method in ("source_only", *config.methods)
  }
  before = distances.pop("source_only")
  nearest = min(distances, key=lambda method: distances[method])
  findings.append(
    f"d_H of source-only is {before:.2f}; {NAMES[nearest]} makes it "
    f"{distances[nearest]:.2f}, the least."
  )
  weighed = [m for m in config.methods if rows[m].weight is not None]
  if weighed:
    lost = np.mean(
      [
        rows[m].oracle_accuracy.mean() - rows[m].test_accuracy.mean()
        for m in weighed
      ]
    )
    wrong = sum(rows[m].weight != rows[m].oracle_weight for m in weighed)
    findings.append(
      f"To choose the weight without target labels cost {100 * lost:.1f} "
      f"points of target accuracy, the mean over {len(weighed)} methods; "
      f"{wrong} of them were given another weight than by an oracle with "
      "target labels."
    )
  return findings


def verdicts(config: Any, rows: dict[str, Any]) -> list[str]:
  """Which methods helped and which hurt, after Holm's correction."""
  if len(rows["source_only"].test_accuracy) < 2:
    return [f"{statistics.ONE_SEED.capitalize()}."]
  test = adaptation.negative_transfer_test(
    np.stack([rows[m].test_accuracy for m in config.methods]),
    rows["source_only"].test_accuracy,
  )
  verdict = dict(zip(config.methods, test.verdict, strict=True))
  ranked = sorted(config.methods, key=lambda m: -gain_of(m, rows).mean)
  words = {
    "helped": "Helped, after Holm's correction",
    "hurt": "Hurt, so transfer was negative",
    "unclear": "Unclear, whether for good or ill",
  }
  lines = []
  for word, text in words.items():
    gains = [
      f"{NAMES[m]} {100 * gain_of(m, rows).mean:+.1f}"
      for m in ranked
      if verdict[m] == word
    ]
    lines.append(f"{text}: {', '.join(gains) or 'none'}.")
  return lines


def rules_table(config: Any, rows: dict[str, Any]) -> str:
  """What each rule of choice would have reached, had it been used."""
  weighed = [rows[m] for m in config.methods if rows[m].weight is not None]
  if not weighed:
    return ""
  reached = {
    rule: np.mean([row.by_rule[rule] for row in weighed]) for rule in RULES
  }
  best = np.mean([row.oracle_accuracy.mean() for row in weighed])
  cells = [
    [f"**{rule}**" if rule == config.select else rule, f"{100 * mean:.1f}"]
    for rule, mean in sorted(reached.items(), key=lambda pair: -pair[1])
  ]
  table = commands.markdown_table(
    ["rule", "on target, %"],
    [["oracle, with target labels", f"{100 * best:.1f}"], *cells],
  )
  return (
    "## Choosing without target labels\n\n"
    f"Mean accuracy on target over {len(weighed)} methods, had their weights "
    f"been chosen by another rule. This run's is in bold.\n\n{table}"
  )


def describe_target(config: Any) -> str:
  """The target and its shift, in words."""
  details = {
    "rotate": f", rotated by {config.degrees:g} degrees",
    "invert": ", inverted",
    "blend_noise": f", blended with noise of strength {config.strength:g}",
  }
  return f"{config.target}{details.get(config.shift, '')}"


def setting(job: Any) -> str:
  """Who saw what, in words."""
  config, data = job.config, job.data
  source, target = data.train_sizes
  weights = ", ".join(f"{weight:g}" for weight in config.weights)
  return (
    "## The setting\n\n"
    f"Each student ({config.network}) saw {source} labelled source images and "
    f"{target} unlabelled target images, {config.batch_size} of each in a "
    "batch; no image is in both domains. Seed i starts from the same weights "
    "and sees the same batches under every method. The published weight of "
    f"the transfer loss is taken {weights} times, a factor chosen for "
    "each method by this rule: "
    f"{RULES[config.select]} (means over seeds, at the last step), of "
    "{} source and {} target images that trained nobody. ".format(
      *data.validation_sizes
    )
    + f"The {len(data.test['label'])} target test images chose nothing."
  )


def draw(job: Any, rows: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  config, path = job.config, job.run.path
  final = {method: row.test_accuracy for method, row in rows.items()}
  ranked = sorted(config.methods, key=lambda method: -final[method].mean())
  best, gain = ranked[0], gain_of(ranked[0], rows)
  title = "No method surely beats source-only"
  if not statistics.is_known(gain):
    title = statistics.ONE_SEED.capitalize()
  elif gain.low > 0:
    title = (
      f"{NAMES[best]} gains most by test accuracy, "
      f"{100 * gain.mean:+.1f} points"
    )
  accuracy_bars(
    path / "accuracy.png",
    {NAMES[method]: values for method, values in final.items()},
    {
      NAMES[method]: row.oracle_accuracy
      for method, row in rows.items()
      if row.weight is not None
    },
    kinds={NAMES[method]: METHODS[method].kind for method in rows},
    title=title,
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
  embedding_scatter(
    path / "embeddings.png",
    {
      f"{NAMES[method]}, d_H {values[-1, 0]:.2f}": rows[method].embeddings
      for method, values in divergences.items()
    },
    np.split(
      np.asarray(job.data.validation["label"]), job.data.validation_sizes[:1]
    ),
    title="Embeddings of both domains, coloured by class",
  )
  return {
    "accuracy.png": "Accuracy on target test images: means with 95 % intervals "
    "and each seed as a dot. Diamonds: had the weight been chosen with target "
    "labels.",
    "divergence.png": "H-divergence of the embeddings of validation images: "
    "mean over seeds in a band of one standard deviation; of at most "
    f"{SHOWN} methods, the best on test images.",
    "embeddings.png": "The first seed's embeddings of validation images on "
    "their two principal components, up to "
    f"{POINTS} of each domain. Target labels only give colours.",
  }
