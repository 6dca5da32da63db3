"""The tables, the figures and the report of `experiments.finetune`."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.finetune.methods import BASELINES
from experiments.finetune.methods import METHODS
from experiments.finetune.plots import BASELINE
from experiments.finetune.plots import META
from experiments.finetune.plots import METHOD
from experiments.finetune.plots import SCRATCH
from experiments.finetune.plots import accuracy_bars
from experiments.finetune.plots import score_scatter
from experiments.finetune.teachers import JUDGES
from experiments.frame import commands
from experiments.frame import statistics

# What Holm's correction leaves of the gains over a baseline, by their sign.
WORDS = {
  "target_only": {
    1: "Transfer surely helped, after Holm's correction",
    -1: "Transfer surely hurt, worse than target-only",
    0: "Neither sure to help nor to hurt",
  },
  "finetune": {
    1: "Surely better than plain fine-tuning, after Holm's correction",
    -1: "Surely worse than plain fine-tuning",
  },
}

CRITERIA = {
  "leep": "LEEP",
  "nce": "NCE",
  "logme": "LogME",
  "h_score": "H-score",
  "regularized_h_score": "regularized H-score",
  "transrate": "TransRate",
}


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the tables.

  Args:
    job: the `Job` of the experiment.
    results: what its `main` returns.
  """
  rows, teachers = results["rows"], results.get("teachers")
  tables = [make_table(rows)]
  findings = conclude(job.config, rows)
  parts = [commands.markdown_table(*tables[0]), read_table(job)]
  if teachers:
    tables += [teacher_table(teachers), criterion_table(teachers)]
    parts += [
      "## Which teacher?",
      "\n".join(f"- {finding}" for finding in conclude_teachers(teachers)),
      *(commands.markdown_table(*table) for table in tables[1:]),
      read_teachers(job),
    ]
  figures = draw(job, results)
  file = job.run.report(
    f"# {job.config.dataset}: from the first half of the classes to the second",
    "\n".join(f"- {finding}" for finding in findings),
    *parts,
    *(
      f"![{caption}]({name})\n\n{caption}" for name, caption in figures.items()
    ),
  )
  for header, cells in tables:
    job.console.print(commands.console_table(header, cells))
  for finding in findings + (conclude_teachers(teachers) if teachers else []):
    job.console.print(f"- {finding}", highlight=False)
  job.console.print(f"Report, plots and checkpoints: {file.parent}")


class Gain(NamedTuple):
  """A gain in accuracy on target test images, paired by seed.

  Attributes:
    interval: of the gain.
    p_value: of a paired t-test, after Holm's correction for all gains over
      the same baseline.
  """

  interval: statistics.Interval
  p_value: float

  @property
  def sign(self) -> int:
    """Whether it is surely a gain, 1, or a loss, -1, or neither, 0."""
    return int(np.sign(self.interval.mean)) if self.p_value < 0.05 else 0

  def cell(self) -> str:
    """As a cell of a table, in points."""
    points = statistics.Interval(*(100 * x for x in self.interval))
    mark = {1: " +", 0: "", -1: " -"}[self.sign]
    return statistics.gain(points, 1) + mark


def gains_of(
  pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Gain]:
  """Gains of the first over the second of each pair."""
  adjusted = statistics.holm(
    [statistics.paired_p_value(*pair) for pair in pairs.values()]
  )
  return {
    name: Gain(statistics.paired_interval(*pair), p_value)
    for (name, pair), p_value in zip(pairs.items(), adjusted, strict=True)
  }


def gains_over(baseline: str, rows: dict[str, Any]) -> dict[str, Gain]:
  """Each method's gain over target_only, or over finetune.

  Methods whose network is normalized are compared with the baseline of the
  same network.
  """
  pairs = {}
  for method, row in rows.items():
    normalized = METHODS[method].norm != "none"
    control = f"{baseline}_norm" if normalized else baseline
    if method != control and method != "target_only":
      pairs[method] = row.accuracy, rows[control].accuracy
  if baseline == "finetune":
    pairs.pop("target_only_norm", None)
  return gains_of(pairs)


def make_table(rows: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of the table of methods."""
  gains = [gains_over(name, rows) for name in ("target_only", "finetune")]
  cells = []
  for method, row in rows.items():
    oracle = ""
    if row.candidates:
      accuracy = 100 * row.oracle_accuracy
      oracle = statistics.mean_std(accuracy, digits=1)
    cells.append(
      [
        METHODS[method].title,
        statistics.mean_std(row.accuracy, scale=100, digits=1),
        *(over[method].cell() if method in over else "" for over in gains),
        describe_choice(row),
        oracle,
      ]
    )
  header = [
    "",
    "accuracy, %",
    "gain over target-only",
    "gain over fine-tuning",
    "chosen most often",
    "oracle's, %",
  ]
  return header, cells


def describe_choice(row: Any) -> str:
  """The candidate that most seeds chose, and how many did."""
  if not row.candidates:
    return ""
  choice, count = Counter(row.chosen.tolist()).most_common(1)[0]
  weights = row.candidates["weight"]
  text = f"rate {row.candidates['rate'][choice]:g}"
  if len(set(weights.tolist())) > 1:
    text = f"{weights[choice]:.2g}, {text}"
  return f"{text} ({count} of {len(row.chosen)})"


def read_table(job: Any) -> str:
  """Who saw what, and how to read the table, in words."""
  config, data = job.config, job.data
  folds = len(data.learns) - 1
  rule = (
    f"by {folds}-fold cross-validation within them (accuracy, then cross-"
    "entropy)"
    if folds
    else "as published, since with one label a class nothing can be held out"
  )
  normalized = (
    " StochNorm needs batch normalization: its network has one after each "
    "layer, as have target-only and fine-tuning *with BN*, over which its "
    "gains are."
    if "stochnorm" in config.methods
    else ""
  )
  return (
    "Mean ± standard deviation over seeds, on target test images; gains are "
    "in points, paired by seed, with 95 % t intervals; + and - mark those "
    "whose paired t-test is below .05 after Holm's correction over the column. "
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
  """What came out of the methods, in words."""
  scratch, tuned = (rows[name].accuracy for name in ("target_only", "finetune"))
  findings = [
    f"With {config.shots} labels a class, target-only reaches "
    f"{scratch.mean():.1%} and fine-tuning {tuned.mean():.1%}.",
    statistics.verdict(
      "Transfer by fine-tuning", statistics.paired_interval(tuned, scratch)
    ),
  ]
  if len(scratch) > 1:
    for baseline, words in WORDS.items():
      gains = gains_over(baseline, rows)
      findings += [
        f"{text}: {tell(gains, sign)}." for sign, text in words.items()
      ]
  lost = {
    METHODS[method].title: 100
    * float(row.oracle_accuracy.mean() - row.accuracy.mean())
    for method, row in rows.items()
    if row.candidates
  }
  worst = max(lost, key=lambda name: lost[name])
  findings.append(
    "To choose by the few labels and not by the oracle's cost "
    f"{np.mean(list(lost.values())):.1f} points of accuracy on average, "
    f"{lost[worst]:.1f} at most ({worst})."
  )
  return findings


def tell(gains: dict[str, Gain], sign: int) -> str:
  """The methods whose gains have a sign, the largest gain first."""
  found = [name for name, gain in gains.items() if gain.sign == sign]
  found.sort(key=lambda name: -gains[name].interval.mean)
  texts = [
    f"{METHODS[name].title} {100 * gains[name].interval.mean:+.1f}"
    for name in found
  ]
  return ", ".join(texts) or "none"


def teacher_table(teachers: Any) -> tuple[list[str], list[list[str]]]:
  """What fine-tuning makes of each teacher."""
  source = teachers.accuracy[0]
  gains = gains_of(
    {
      name: (accuracy, source)
      for name, accuracy in zip(teachers.names, teachers.accuracy, strict=True)
      if name != "source"
    }
  )
  cells = [
    [
      name,
      statistics.mean_std(accuracy, scale=100, digits=1),
      gains[name].cell() if name in gains else "",
    ]
    for name, accuracy in zip(teachers.names, teachers.accuracy, strict=True)
  ]
  return ["pretrained on", "accuracy, %", "gain over source"], cells


def criterion_table(teachers: Any) -> tuple[list[str], list[list[str]]]:
  """How well each criterion foretells that."""
  cells = [
    [
      title,
      *(statistics.mean_std(x) for x in teachers.correlations[name]),
      *(
        statistics.mean_std(x, scale=100, digits=1)
        for x in teachers.picked[name]
      ),
    ]
    for name, title in CRITERIA.items()
  ]
  header = [
    "criterion",
    *(f"tau, {judge} labels" for judge in JUDGES),
    *(f"its first, {judge} labels, %" for judge in JUDGES),
  ]
  return header, cells


def read_teachers(job: Any) -> str:
  """How to read the tables of teachers, in words."""
  return (
    "All teachers have one architecture and, by seed, one initial network; "
    "each is fine-tuned plainly on the seed's few labels. Tau is Kendall's "
    "rank correlation, over teachers, of a score given before fine-tuning and "
    "the test accuracy after it; 0 where all scores are alike. Its first: the "
    "accuracy of the teacher that is ranked first. Scores see the few labels "
    f"or, as an oracle would, all {len(job.data.target['label'])} labels of "
    "the target's training images."
  )


def conclude_teachers(teachers: Any) -> list[str]:
  """What came out of the ranking, in words."""
  means = teachers.accuracy.mean(1)
  best = int(means.argmax())
  findings = [
    f"The best teacher on average is {teachers.names[best]!r}, with "
    f"{means[best]:.1%}; a teacher taken at random gives {means.mean():.1%}, "
    f"the best of each seed {teachers.accuracy.max(0).mean():.1%}."
  ]
  for judge, judged in enumerate(JUDGES):
    taus = {name: x[judge] for name, x in teachers.correlations.items()}
    gains = gains_of({n: (x, np.zeros_like(x)) for n, x in taus.items()})
    first = max(taus, key=lambda name: taus[name].mean())
    sure = [CRITERIA[name] for name, gain in gains.items() if gain.sign > 0]
    tau = statistics.gain(gains[first].interval, 2)
    reached = teachers.picked[first][judge].mean()
    findings.append(
      f"With {judged} labels {CRITERIA[first]} ranks best, tau {tau}; the "
      f"teacher it puts first reaches {reached:.1%}. Surely better than "
      "chance, after Holm's correction for all criteria: "
      f"{', '.join(sure) or 'none'}."
    )
  return findings


def draw(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  rows, path = results["rows"], job.run.path
  gains = gains_over("finetune", rows)
  best = max(gains, key=lambda method: gains[method].interval.mean)
  title = "No method surely beats plain fine-tuning"
  if not statistics.is_known(gains[best].interval):
    title = statistics.ONE_SEED.capitalize()
  elif gains[best].sign > 0:
    title = (
      f"{METHODS[best].title} gains most over plain fine-tuning, "
      f"{100 * gains[best].interval.mean:+.1f} points"
    )
  accuracy_bars(
    path / "accuracy.png",
    {METHODS[method].title: row.accuracy for method, row in rows.items()},
    {
      METHODS[method].title: row.oracle_accuracy
      for method, row in rows.items()
      if row.candidates
    },
    {METHODS[method].title: colour_of(method) for method in rows},
    reference=METHODS["finetune"].title,
    title=title,
  )
  captions = {
    "accuracy.png": "Accuracy on target test images: means with 95 % intervals "
    "and each seed as a dot. Diamonds: had the candidates been chosen with "
    "many target labels. Dashed: plain fine-tuning."
  }
  if teachers := results.get("teachers"):
    taus = {
      CRITERIA[name]: f"tau {statistics.mean_std(values[0])}"
      for name, values in teachers.correlations.items()
    }
    score_scatter(
      path / "teachers.png",
      {CRITERIA[name]: values[0] for name, values in teachers.scores.items()},
      teachers.accuracy,
      taus,
      teachers=teachers.names,
      title=conclude_teachers(teachers)[1].split(";")[0],
    )
    captions["teachers.png"] = (
      "Scores by the few labels against the accuracy after fine-tuning: means "
      "over seeds, and each seed faintly."
    )
  return captions


def colour_of(method: str) -> str:
  """By where a network comes from."""
  start = METHODS[method].start
  if start == "fresh":
    return SCRATCH
  if method in (*BASELINES, "finetune_norm"):
    return BASELINE
  return METHOD if start == "source" else META
