"""The tables and the words of the report of `experiments.shifts`."""

from typing import Any

import numpy as np

from experiments.frame import rules
from experiments.frame import statistics
from experiments.frame import tables
from experiments.shifts.choice import CHANCE
from experiments.shifts.choice import ORACLE
from experiments.shifts.methods import METHODS
from experiments.shifts.methods import NAMES
from experiments.shifts.methods import ROWS
from experiments.shifts.plots import Verdicts
from experiments.shifts.plots import gain_maps
from experiments.shifts.plots import samples

# Shift -> method -> rule -> accuracies on target test points, `[seeds]`.
Results = dict[str, dict[str, dict[str, np.ndarray]]]
BLIND, BEST = "chosen without target labels", "chosen by an oracle"


def write(job: Any, results: Results) -> None:
  """Draws the figures, writes report.md and prints the table."""
  config, path = job.config, job.run.path
  problems = {shift: job.data(shift, 0) for shift in results}
  blind, oracle = (
    {shift: judge(rows, rule) for shift, rows in results.items()}
    for rule in (config.select, ORACLE)
  )
  starts, bounds = (
    {shift: rows[name][ORACLE].mean() for shift, rows in results.items()}
    for name in ("source_only", "target_only")
  )
  sizes = "; ".join(
    f"{shift}: {len(x.train.labels)} training, {len(x.source.labels)} "
    f"validation and {len(x.test.labels)} target test points"
    for shift, x in problems.items()
  )
  job.run.publish(
    job.console,
    "Methods against shifts",
    conclude(results, config.select, blind),
    gain_maps(path / "gains.png", {BLIND: blind, BEST: oracle}, starts, bounds),
    "## Chosen without target labels",
    make_table(results, config.select, blind),
    "## Chosen by an oracle, with labels of target validation points",
    make_table(results, ORACLE, oracle)._replace(shown=()),
    "Accuracy on target test points, mean ± standard deviation over seeds, "
    "compared with source-only. Target-only was trained with target labels. "
    f"{statistics.LEGEND}",
    "## The gains of each rule",
    compare_rules(results),
    "Gain over source-only in points, the mean over all methods, ± standard "
    "deviation over seeds.",
    "## Gains with intervals",
    intervals(blind),
    "## The setting",
    f"Each of {config.seeds} seeds draws new data, the same for all methods "
    f"({sizes}; of each domain but for the test). All methods train "
    "scikit-learn's SVC with its defaults; TCA and JDA fit their maps to "
    f"{ROWS} points of each domain. A method's hyper-parameter is chosen for "
    f"each seed by this rule: {rules.RULES[config.select]}. Test points chose "
    "nothing.",
    samples(
      path / "data.png",
      problems,
      title="How the domains differ, and the decisions of source-only",
    ),
  )


def judge(
  rows: dict[str, dict[str, np.ndarray]], rule: str
) -> dict[str, statistics.Gain]:
  """The gains of methods over source-only on a shift, as a rule chose."""
  scores = {name: row[rule] for name, row in rows.items() if name in METHODS}
  return statistics.compare(scores, rows["source_only"][rule])


def make_table(results: Results, rule: str, verdicts: Verdicts) -> tables.Table:
  """Accuracies, a row for each method."""

  def cell(shift: str, method: str) -> str:
    text = statistics.percent(results[shift][method][rule])
    gain = verdicts[shift].get(method)
    return text + (statistics.MARKS.get(gain.verdict, "") if gain else "")

  cells = [
    [NAMES[method], *(cell(shift, method) for shift in results)]
    for method in next(iter(results.values()))
  ]
  return tables.Table(["", *(f"{shift}, %" for shift in results)], cells)


def intervals(verdicts: Verdicts) -> tables.Table:
  """Gains with intervals, a row for each method."""
  cells = [
    [NAMES[name], *(gains[name].cell() for gains in verdicts.values())]
    for name in next(iter(verdicts.values()))
  ]
  return tables.Table(["gain in points", *verdicts], cells, shown=())


def compare_rules(results: Results) -> tables.Table:
  """The mean gains of each rule of choice."""

  def gains(shift: str, rule: str) -> np.ndarray:
    rows = results[shift]
    adapted = [rows[x][rule] for x in rows if x in METHODS]
    return np.mean(adapted, 0) - rows["source_only"][rule]

  names = {rule: rule.replace("_", " ") for rule in rules.RULES} | {
    ORACLE: "the oracle, by target labels",
    CHANCE: "chance: the mean of all candidates",
  }
  cells = []
  for rule, name in names.items():
    of_shifts = [gains(shift, rule) for shift in results]
    values = *of_shifts, np.mean(of_shifts, 0)
    cells.append([name, *map(statistics.percent, values)])
  return tables.Table(["chosen by", *results, "mean"], cells, shown=())


def conclude(results: Results, rule: str, verdicts: Verdicts) -> list[str]:
  """The findings, in words."""
  findings = []
  for shift, rows in results.items():
    source, target = (
      rows[name][rule].mean() for name in ("source_only", "target_only")
    )
    said = statistics.findings(verdicts[shift], NAMES, "source-only")
    findings.append(
      f"On the {shift} shift source-only reaches {source:.1%} and target-only "
      f"{target:.1%}. {' '.join(said)}"
    )

  def ever(verdict: str) -> set[str]:
    gains = (pair for x in verdicts.values() for pair in x.items())
    return {name for name, gain in gains if gain.verdict == verdict}

  helped, hurt = ever("helped"), ever("hurt")
  phrases = {
    "Clearly better on one shift and clearly worse on another": helped & hurt,
    "Clearly better on a shift and clearly worse on none": helped - hurt,
  }
  for phrase, which in phrases.items():
    if not ever("unknown"):
      named = [NAMES[x] for x in METHODS if x in which]
      findings.append(f"{phrase}: {', '.join(named) or 'no method'}.")
  costs = {
    (shift, method): 100 * float(np.mean(row[ORACLE] - row[rule]))
    for shift, rows in results.items()
    for method, row in rows.items()
    if method in METHODS
  }
  shift, method = max(costs, key=lambda x: costs[x])
  findings.append(
    "Choosing without target labels cost at most "
    f"{costs[shift, method]:.1f} points ({NAMES[method]} on the {shift} "
    f"shift) and {np.mean(list(costs.values())):.1f} on average."
  )
  return findings
