"""The tables, the figures and the report of `experiments.finetune`."""

from collections import Counter
from typing import Any

import numpy as np

from experiments.frame import plots, statistics, tables, transferability
from experiments.frame.finetuning import NAMES, ORIGINS, norm_of, origin_of


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the tables."""
  rows, teachers = results["rows"], results.get("teachers")
  parts = [conclude(job.config, rows), make_table(rows), read_table(job)]
  if teachers:
    parts += [
      "## Which teacher?",
      transferability.conclude(teachers),
      transferability.teacher_table(teachers),
      transferability.criterion_table(teachers),
      "All teachers have one architecture and, by seed, one initial network; "
      "each is fine-tuned plainly on the seed's few labels. Tau is Kendall's "
      "rank correlation, over teachers, of a score before fine-tuning and the "
      "test accuracy after it; 0 where all scores are alike. Its first: the "
      "accuracy of the teacher that is ranked first. Scores see the few labels "
      f"or, as an oracle would, all {len(job.data.target['label'])} labels of "
      "the target's training images.",
    ]
  job.run.publish(
    job.console,
    f"{job.config.dataset}: from the first half of the classes to the second",
    *parts,
    draw(job, results),
  )


def gains_over(
  baseline: str, rows: dict[str, Any]
) -> dict[str, statistics.Gain]:
  """Each method's gain over the baseline, that of the same normalization."""
  scores, controls = {}, {}
  for method, row in rows.items():
    normalized = norm_of(method) != "none"
    control = f"{baseline}_norm" if normalized else baseline
    if method not in (control, "target_only"):
      scores[method], controls[method] = row.accuracy, rows[control].accuracy
  if baseline == "finetune":
    scores.pop("target_only_norm", None)
  return statistics.compare(scores, controls)


def make_table(rows: dict[str, Any]) -> tables.Table:
  """A row for each method."""
  scratch, tuned = (gains_over(x, rows) for x in ("target_only", "finetune"))

  def oracle(method: str) -> str:
    row = rows[method]
    return statistics.percent(row.oracle_accuracy) if row.candidates else ""

  columns = {
    "": lambda method: NAMES[method],
    "accuracy, %": lambda method: statistics.percent(rows[method].accuracy),
    "gain over target-only": lambda method: statistics.cell(scratch, method),
    "gain over fine-tuning": lambda method: statistics.cell(tuned, method),
    "chosen most often": lambda method: describe_choice(rows[method]),
    "oracle's, %": oracle,
  }
  return tables.of_rows(rows, columns, shown=(0, 1, 2, 3))


def describe_choice(row: Any) -> str:
  """The candidate that most seeds chose, and how many did."""
  if row.candidates is None:
    return ""
  choice, count = Counter(row.chosen.tolist()).most_common(1)[0]
  weights = row.candidates["weight"]
  text = f"rate {row.candidates['rate'][choice]:g}"
  if len(set(weights.tolist())) > 1:
    text = f"{weights[choice]:.2g}, {text}"
  return f"{text} ({count} of {len(row.chosen)})"


def read_table(job: Any) -> str:
  """The images and how to read the table, in words."""
  config, data = job.config, job.data
  rule = "as published, since with one label a class nothing can be held out"
  if folds := len(data.learns) - 1:
    rule = f"by {folds}-fold cross-validation within them (accuracy, then "
    rule += "cross-entropy)"
  normalized = ""
  if "stochnorm" in config.methods:
    normalized = (
      " StochNorm needs batch normalization: its network has one after each "
      "layer, as have target-only and fine-tuning *with BN*, over which its "
      "gains are."
    )
  return (
    "Mean ± standard deviation over seeds, on target test images; gains are "
    f"in points. {statistics.LEGEND} Each column is corrected by itself. "
    f"Each network ({config.network}) was pretrained on "
    f"{len(data.source['label'])} images of the {data.classes} source classes. "
    f"Each seed has {config.shots} labelled images of each of the "
    f"{data.classes} target classes, its own draw, and chooses its learning "
    f"rate and weight {rule}. The last column **uses "
    f"{len(data.target_validation['label'])} more target labels**: the "
    "candidate that an oracle would have chosen. Target-only starts from "
    "fresh weights; prototypes take the source's features as they are, "
    "without training, and the nearest class mean. MAML, ANIL, Reptile and "
    "prototypical nets are other ways to pretrain on the source; the last "
    f"is used as prototypes are. The {len(data.test['label'])} test images "
    f"chose nothing.{normalized}"
  )


def conclude(config: Any, rows: dict[str, Any]) -> list[str]:
  """The findings on the methods, in words."""
  scratch, tuned = (rows[name].accuracy for name in ("target_only", "finetune"))
  findings = [
    f"With {config.shots} labels a class, target-only reaches "
    f"{scratch.mean():.1%} and fine-tuning {tuned.mean():.1%}."
  ]
  for baseline in ("target_only", "finetune"):
    gains = gains_over(baseline, rows)
    findings += statistics.findings(gains, NAMES, NAMES[baseline])
  lost = {
    NAMES[method]: 100 * float(row.oracle_accuracy.mean() - row.accuracy.mean())
    for method, row in rows.items()
    if row.candidates
  }
  worst = max(lost, key=lambda name: lost[name])
  findings.append(
    "Choosing by the few labels and not by the oracle's cost "
    f"{np.mean(list(lost.values())):.1f} points of accuracy on average, "
    f"{lost[worst]:.1f} at most ({worst})."
  )
  return findings


def draw(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  rows, path = results["rows"], job.run.path
  named = {NAMES[method]: row for method, row in rows.items()}
  gains = gains_over("finetune", rows)
  plots.accuracy_bars(
    path / "accuracy.png",
    {name: row.accuracy for name, row in named.items()},
    groups={NAMES[method]: origin_of(method) for method in rows},
    colours=ORIGINS,
    oracles={k: x.oracle_accuracy for k, x in named.items() if x.candidates},
    oracle_label="chosen with target labels",
    reference=NAMES["finetune"],
    title=statistics.headline(gains, NAMES, "plain fine-tuning"),
  )
  captions = {
    "accuracy.png": "Accuracy on target test images: means with 95 % intervals "
    "and each seed as a dot. Diamonds: had the candidates been chosen with "
    "many target labels. Dashed: plain fine-tuning."
  }
  if teachers := results.get("teachers"):
    transferability.score_scatter(path / "teachers.png", teachers)
    captions["teachers.png"] = (
      "Scores by the few labels against the accuracy after fine-tuning: means "
      "over seeds, and each seed faintly."
    )
  return captions
