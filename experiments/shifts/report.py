"""The tables, the figures and the words of `experiments.shifts`."""

from typing import Any, NamedTuple

import numpy as np

from experiments.frame import commands
from experiments.frame import statistics
from experiments.shifts.choice import CHANCE
from experiments.shifts.choice import ORACLE
from experiments.shifts.choice import RULES
from experiments.shifts.data import SHIFTS
from experiments.shifts.methods import METHODS
from experiments.shifts.methods import ROWS
from experiments.shifts.methods import fit
from experiments.shifts.methods import source_only
from experiments.shifts.plots import Gains
from experiments.shifts.plots import gain_maps
from experiments.shifts.plots import samples
from kdjax import adaptation

# Shift -> method -> rule -> accuracies on target test points, `[seeds]`.
Results = dict[str, dict[str, dict[str, np.ndarray]]]
BLIND, BEST = "chosen without target labels", "chosen by an oracle"
MARKS = {"helped": " +", "hurt": " -", "unclear": ""}


class Verdict(NamedTuple):
  """How methods compare with source-only on one shift.

  Attributes:
    word: method -> "helped", "hurt" or "unclear".
    gain: method -> the mean gain in points.
    sentences: the same with intervals, one a method.
  """

  word: dict[str, str]
  gain: dict[str, float]
  sentences: list[str]


def write(job: Any, results: Results, problems: dict[Any, Any]) -> None:
  """Draws the figures, writes report.md and prints the table.

  Args:
    job: the `Job` of the experiment.
    results: of all rules.
    problems: shift -> the `Problem` of its first seed.
  """
  blind, oracle = (
    {shift: judge(rows, rule) for shift, rows in results.items()}
    for rule in (job.config.select, ORACLE)
  )
  draw(job, results, blind, oracle)
  draw_data(job, problems)
  header, cells = make_table(results, job.config.select, blind)
  findings = conclude(results, job.config.select, blind)
  file = job.run.report(
    "# Methods against shifts",
    as_list(findings),
    "![Gain over source-only](gains.png)",
    "Gain over source-only in points of target accuracy, mean over seeds. Bold "
    "where a paired t-test is below .05 after Holm's correction over the "
    "methods of a shift. Below each shift is where source-only starts from.",
    "## Chosen without target labels",
    commands.markdown_table(header, cells),
    "## Chosen by an oracle, with labels of target validation points",
    commands.markdown_table(*make_table(results, ORACLE, oracle)),
    "Accuracy on target test points, mean ± standard deviation over seeds; + "
    "and - mark what helped and what hurt, as in the map. Target-only was "
    "trained with target labels.",
    "## What each rule would have chosen",
    commands.markdown_table(*compare_rules(results)),
    "Gain over source-only in points, the mean over all methods, ± standard "
    "deviation over seeds.",
    "## In words",
    *(
      f"### {shift}\n\n{as_list(verdict.sentences)}"
      for shift, verdict in blind.items()
    ),
    setting(job, problems),
    "![The data](data.png)",
    "Training points of the first seed. The shade is where source-only, "
    "trained on the upper row, sees each class.",
  )
  job.console.print(commands.console_table(header, cells))
  for finding in findings:
    job.console.print(f"- {finding}", highlight=False, soft_wrap=True)
  job.console.print(f"Report and plots: {file.parent}")


def as_list(lines: list[str]) -> str:
  """Lines as a list in Markdown."""
  return "\n".join(f"- {line}" for line in lines)


def name_of(method: str) -> str:
  """A method's name in the report."""
  known = METHODS.get(method)
  return known.name if known else method.replace("_", "-")


def judge(rows: dict[str, dict[str, np.ndarray]], rule: str) -> Verdict:
  """Whether each method helped, hurt or neither, on one shift.

  Args:
    rows: method -> rule -> accuracies.
    rule: which chose.

  Returns:
    The verdict on all methods but source_only and target_only.
  """
  scores = {method: row[rule] for method, row in rows.items()}
  source, target = scores.pop("source_only"), scores.pop("target_only")
  named = {name_of(method): x for method, x in scores.items()}
  test = adaptation.negative_transfer_test(named, source, target)
  assert isinstance(test.verdict, dict)  # as the methods were
  words = test.verdict.values()
  return Verdict(
    dict(zip(scores, words, strict=True)),
    {method: 100 * float(np.mean(x - source)) for method, x in scores.items()},
    test.summary.splitlines(),
  )


def make_table(
  results: Results, rule: str, verdicts: dict[str, Verdict]
) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of a table of accuracies."""

  def cell(shift: str, method: str) -> str:
    values = results[shift][method][rule]
    mark = MARKS[verdicts[shift].word.get(method, "unclear")]
    return statistics.mean_std(values, scale=100, digits=1) + mark

  methods = next(iter(results.values()))
  cells = [
    [name_of(method), *(cell(shift, method) for shift in results)]
    for method in methods
  ]
  return ["", *(f"{shift}, %" for shift in results)], cells


def compare_rules(results: Results) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of a table of rules."""

  def gains(shift: str, rule: str) -> np.ndarray:
    rows = results[shift]
    adapted = [rows[x][rule] for x in rows if x in METHODS]
    return np.mean(adapted, 0) - rows["source_only"][rule]

  def line(rule: str) -> list[str]:
    of_shifts = [gains(shift, rule) for shift in results]
    values = [*of_shifts, np.mean(of_shifts, 0)]
    return [statistics.mean_std(x, scale=100, digits=1) for x in values]

  names = {rule: rule.replace("_", " ") for rule in RULES} | {
    ORACLE: "the oracle, by target labels",
    CHANCE: "chance: the mean of all candidates",
  }
  cells = [[name, *line(rule)] for rule, name in names.items()]
  return ["chosen by", *results, "mean"], cells


def conclude(
  results: Results, rule: str, verdicts: dict[str, Verdict]
) -> list[str]:
  """What came out, in words."""
  findings = []
  if len(next(iter(results.values()))["source_only"][rule]) == 1:
    findings.append(f"{statistics.ONE_SEED.capitalize()}.")
  for shift, rows in results.items():
    word, gain, _ = verdicts[shift]
    source, target = (
      rows[name][rule].mean() for name in ("source_only", "target_only")
    )
    parts = [
      f"On the {shift} shift source-only reaches {source:.1%} and target-only "
      f"{target:.1%}"
    ]
    for verdict, phrase in (
      ("helped", "helped"),
      ("hurt", "transfer hurt with"),
    ):
      which = [method for method in word if word[method] == verdict]
      which.sort(key=lambda method: -abs(gain[method]))
      named = ", ".join(f"{name_of(x)} ({gain[x]:+.1f})" for x in which)
      parts.append(f"{phrase} {named or 'none'}")
    findings.append("; ".join(parts) + ".")

  def ever(verdict: str) -> set[str]:
    words = (x.word for x in verdicts.values())
    return {method for w in words for method in w if w[method] == verdict}

  helped, hurt = ever("helped"), ever("hurt")
  for phrase, which in (
    ("Helped on one shift and hurt on another", helped & hurt),
    ("Helped somewhere and hurt nowhere", helped - hurt),
  ):
    named = [name_of(x) for x in METHODS if x in which]
    findings.append(f"{phrase}: {', '.join(named) or 'no method'}.")
  costs = {
    (shift, method): 100 * float(np.mean(row[ORACLE] - row[rule]))
    for shift, rows in results.items()
    for method, row in rows.items()
    if method in METHODS
  }
  shift, method = max(costs, key=lambda x: costs[x])
  findings.append(
    "To choose without target labels cost at most "
    f"{costs[shift, method]:.1f} points ({name_of(method)} on the {shift} "
    f"shift) and {np.mean(list(costs.values())):.1f} on average."
  )
  return findings


def setting(job: Any, problems: dict[Any, Any]) -> str:
  """Who saw what, in words."""
  config = job.config
  sizes = "; ".join(
    f"{shift}: {len(x.train.labels)} training, {len(x.source.labels)} "
    f"validation and {len(x.test.labels)} target test points"
    for shift, x in problems.items()
  )
  return (
    "## The setting\n\n"
    f"Each of {config.seeds} seeds draws new data, the same for all methods "
    f"({sizes}; of each domain but for the test). All methods train "
    "scikit-learn's SVC with its defaults; TCA and JDA fit their maps to "
    f"{ROWS} points of each domain. A method's hyper-parameter "
    "is chosen for each seed by this rule: "
    f"{RULES[config.select].words}. Test points chose nothing."
  )


def draw(
  job: Any,
  results: Results,
  blind: dict[str, Verdict],
  oracle: dict[str, Verdict],
) -> None:
  """Saves the map of gains."""
  methods = [x for x in job.methods if x in METHODS]
  groups: dict[str, int] = {}
  for method in methods:
    kind = METHODS[method].kind
    groups[kind] = groups.get(kind, 0) + 1

  def panel(verdicts: dict[str, Verdict]) -> Gains:
    # Nothing is tested of target-only, which no method can be.
    bound = [
      100 * np.mean(rows["target_only"][ORACLE] - rows["source_only"][ORACLE])
      for rows in results.values()
    ]
    gains = [[x.gain[method] for x in verdicts.values()] for method in methods]
    sure = [
      [x.word[method] != "unclear" for x in verdicts.values()]
      for method in methods
    ]
    return Gains(
      np.array([*gains, bound]), np.array([*sure, [False] * len(bound)])
    )

  most = max(
    sum(x.word[method] == "helped" for x in blind.values())
    for method in methods
  )
  gain_maps(
    job.run.path / "gains.png",
    {BLIND: panel(blind), BEST: panel(oracle)},
    rows=[*map(name_of, methods), "target-only"],
    groups=groups | {"target labels": 1},
    columns=[
      f"{shift}\nfrom {rows['source_only'][ORACLE].mean():.1%}"
      for shift, rows in results.items()
    ],
    title=(
      f"No method helps on more than {most} of {len(results)} shifts"
      if most
      else "No method surely helps"
    )
    + ": gain over source-only, points",
  )


def draw_data(job: Any, problems: dict[Any, Any]) -> None:
  """Saves the figure of the data."""
  samples(
    job.run.path / "data.png",
    {
      shift: (
        (x.train.source, x.train.labels),
        (x.train.target, x.target_labels),
      )
      for shift, x in problems.items()
    },
    {shift: fit(source_only(x.train)) for shift, x in problems.items()},
    title="Four ways to differ, and what source-only makes of them"
    if len(problems) == len(SHIFTS)
    else "How the domains differ, and what source-only makes of it",
  )
