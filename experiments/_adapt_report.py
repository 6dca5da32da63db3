"""The table, the figures and the report of `experiments.adapt`."""

from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from experiments import _adapt_plots
from experiments import _run
from experiments import _statistics

NAMES = {
  "source_only": "source-only",
  "dann": "DANN",
  "mmd": "MMD",
  "coral": "CORAL",
  "jda": "JDA",
  "target_only": "target-only",
}
RULES = {
  "source_accuracy": "accuracy on source validation images",
  "information": "mutual information of target validation images and their "
  "predicted classes",
  "guarded": "mutual information of target validation images and their "
  "predicted classes, among weights whose accuracy on source validation images "
  "is within 2 points of the best",
}


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
    _run.markdown_table(header, cells),
    read_table(rows),
    setting(job),
    *(
      f"![{caption}]({name})\n\n{caption}" for name, caption in figures.items()
    ),
  )
  table = Table(*header[:1], box=box.SIMPLE_HEAD)
  for name in header[1:]:
    table.add_column(name, justify="right")
  for row in cells:
    table.add_row(*row)
  job.console.print(table)
  for finding in findings:
    job.console.print(f"- {finding}", highlight=False)
  job.console.print(f"Report, plots and checkpoints: {file.parent}")


def gain_of(method: str, rows: dict[str, Any]) -> _statistics.Interval:
  """The gain over source-only on target test images, paired by seed."""
  return _statistics.paired_interval(
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
      gain = _statistics.gain(_statistics.Interval(*ends), 1)
    if row.weight is not None:
      accuracy = 100 * row.oracle_accuracy.mean()
      weight = f"{row.weight:g}"
      oracle = f"{row.oracle_weight:g}: {accuracy:.1f}"
    cells.append(
      [
        NAMES[method],
        _statistics.mean_std(row.test_accuracy, scale=100, digits=1),
        gain,
        _statistics.mean_std(last["source_accuracy"], scale=100, digits=1),
        _statistics.mean_std(last["divergence"]),
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
  findings += [
    _statistics.verdict(NAMES[method], gain_of(method, rows))
    for method in config.methods
  ]
  divergences = {
    method: rows[method].validation["divergence"][-1].mean()
    for method in ("source_only", *config.methods)
  }
  before = divergences.pop("source_only")
  after = ", ".join(f"{x:.2f} ({NAMES[m]})" for m, x in divergences.items())
  findings.append(f"d_H of source-only, {before:.2f}, becomes {after}.")
  lost = {
    NAMES[method]: float(row.oracle_accuracy.mean() - row.test_accuracy.mean())
    for method, row in rows.items()
    if method in config.methods and row.weight != row.oracle_weight
  }
  if lost:
    costs = ", ".join(f"{100 * x:.1f} ({name})" for name, x in lost.items())
    findings.append(
      "To choose the weight without target labels cost, in points of target "
      f"accuracy: {costs}."
    )
  else:
    findings.append(
      "The weights chosen without target labels are those that an oracle with "
      "target labels would have chosen."
    )
  return findings


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
    "and sees the same batches under every method. The weight of the transfer "
    f"loss is one of {weights} for each method, chosen by this rule: "
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
  best = max(config.methods, key=lambda method: final[method].mean())
  gain = gain_of(best, rows)
  title = "No method surely beats source-only"
  if not _statistics.is_known(gain):
    title = _statistics.ONE_SEED.capitalize()
  elif gain.low > 0:
    title = (
      f"{NAMES[best]} gains most by test accuracy, "
      f"{100 * gain.mean:+.1f} points"
    )
  _adapt_plots.accuracy_bars(
    path / "accuracy.png",
    {NAMES[method]: values for method, values in final.items()},
    {NAMES[method]: rows[method].oracle_accuracy for method in config.methods},
    title=title,
  )
  divergences = {
    method: row.validation["divergence"] for method, row in rows.items()
  }
  nearest = min(config.methods, key=lambda x: divergences[x][-1].mean())
  _adapt_plots.divergence_curves(
    path / "divergence.png",
    config.evaluate_every * np.arange(1, len(divergences[nearest]) + 1),
    {NAMES[method]: values for method, values in divergences.items()},
    null=max(row.null for row in rows.values()),
    title=f"{NAMES[nearest]} brings the domains closest, to a d_H of "
    f"{divergences[nearest][-1].mean():.2f}",
  )
  _adapt_plots.embedding_scatter(
    path / "embeddings.png",
    {
      f"{NAMES[method]}, d_H {divergences[method][-1, 0]:.2f}": row.embeddings
      for method, row in rows.items()
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
    "mean over seeds in a band of one standard deviation.",
    "embeddings.png": "The first seed's embeddings of validation images on "
    "their two principal components, up to "
    f"{_adapt_plots.SHOWN} of each domain. Target labels only give colours.",
  }
