"""The tables, the figures and the words of `experiments.shifts`."""

from typing import Any

import numpy as np

from experiments.frame import rules
from experiments.frame import statistics
from experiments.frame import tables
from experiments.shifts.choice import CHANCE
from experiments.shifts.choice import ORACLE
from experiments.shifts.data import SHIFTS
from experiments.shifts.methods import METHODS
from experiments.shifts.methods import ROWS
from experiments.shifts.methods import fit
from experiments.shifts.methods import source_only
from experiments.shifts.plots import Gains
from experiments.shifts.plots import gain_maps
from experiments.shifts.plots import samples

# Shift -> method -> rule -> accuracies on target test points, `[seeds]`.
Results = dict[str, dict[str, dict[str, np.ndarray]]]
# Shift -> method -> its gain over source-only.
Verdicts = dict[str, dict[str, statistics.Gain]]
BLIND, BEST = "chosen without target labels", "chosen by an oracle"
NAMES = {
  "source_only": "source-only",
  "target_only": "target-only",
  **{name: method.name for name, method in METHODS.items()},
}


def write(job: Any, results: Results, problems: dict[Any, Any]) -> None:
  """Draws the figures, writes report.md and prints the table."""
  rule = job.config.select
  blind, oracle = (
    {shift: judge(rows, rule) for shift, rows in results.items()}
    for rule in (rule, ORACLE)
  )
  job.run.publish(
    job.console,
    "Methods against shifts",
    conclude(results, rule, blind),
    draw(job, results, blind, oracle),
    "## Chosen without target labels",
    make_table(results, rule, blind),
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
    setting(job, problems),
    draw_data(job, problems),
  )


def judge(
  rows: dict[str, dict[str, np.ndarray]], rule: str
) -> dict[str, statistics.Gain]:
  """The gains of all methods over source-only, on one shift."""
  scores = {name: row[rule] for name, row in rows.items() if name in METHODS}
  return statistics.compare(scores, rows["source_only"][rule])


def make_table(results: Results, rule: str, verdicts: Verdicts) -> tables.Table:
  """Accuracies, a row for each method."""

  def cell(shift: str, method: str) -> str:
    text = statistics.mean_std(
      results[shift][method][rule], scale=100, digits=1
    )
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

  def line(rule: str) -> list[str]:
    of_shifts = [gains(shift, rule) for shift in results]
    values = [*of_shifts, np.mean(of_shifts, 0)]
    return [statistics.mean_std(x, scale=100, digits=1) for x in values]

  names = {rule: rule.replace("_", " ") for rule in rules.RULES} | {
    ORACLE: "the oracle, by target labels",
    CHANCE: "chance: the mean of all candidates",
  }
  cells = [[name, *line(rule)] for rule, name in names.items()]
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
    return {
      name
      for gains in verdicts.values()
      for name, gain in gains.items()
      if gain.verdict == verdict
    }

  helped, hurt = ever("helped"), ever("hurt")
  if not ever("unknown"):
    for phrase, which in (
      (
        "Clearly better on one shift and clearly worse on another",
        helped & hurt,
      ),
      ("Clearly better on a shift and clearly worse on none", helped - hurt),
    ):
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


def setting(job: Any, problems: dict[Any, Any]) -> str:
  """The data and the classifier, in words."""
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
    f"{rules.RULES[config.select]}. Test points chose nothing."
  )


def draw(
  job: Any, results: Results, blind: Verdicts, oracle: Verdicts
) -> dict[str, str]:
  """Saves the map of gains; returns its caption."""
  methods = [x for x in job.methods if x in METHODS]
  groups: dict[str, int] = {}
  for method in methods:
    kind = METHODS[method].kind
    groups[kind] = groups.get(kind, 0) + 1
  starts = {
    shift: rows["source_only"][ORACLE].mean() for shift, rows in results.items()
  }

  def panel(verdicts: Verdicts) -> Gains:
    # No verdict on target-only, which is a bound and not a method.
    bound = [
      rows["target_only"][ORACLE].mean() - starts[shift]
      for shift, rows in results.items()
    ]
    gains = [[x[name] for x in verdicts.values()] for name in methods]
    points = [[gain.mean for gain in row] for row in gains]
    clear = [[gain.verdict in statistics.MARKS for gain in x] for x in gains]
    return Gains(
      100 * np.array([*points, bound]),
      np.array([*clear, [False] * len(bound)]),
    )

  gains = [x for of_shift in blind.values() for x in of_shift.values()]
  most = max(
    sum(x[method].verdict == "helped" for x in blind.values())
    for method in methods
  )
  title = "No method is clearly better than source-only"
  if any(gain.verdict == "unknown" for gain in gains):
    title = statistics.TOO_FEW.capitalize()
  elif most:
    title = f"No method helps on more than {most} of {len(results)} shifts"
  gain_maps(
    job.run.path / "gains.png",
    {BLIND: panel(blind), BEST: panel(oracle)},
    rows=[*(NAMES[name] for name in methods), "target-only"],
    groups=groups | {"target labels": 1},
    columns=[f"{shift}\nfrom {start:.1%}" for shift, start in starts.items()],
    title=f"{title}: gain over source-only, points",
  )
  caption = (
    "Gain over source-only in points of target accuracy, mean over seeds, bold "
    "where it is clear. Below each shift is the accuracy of source-only."
  )
  return {"gains.png": caption}


def draw_data(job: Any, problems: dict[Any, Any]) -> dict[str, str]:
  """Saves the figure of the data; returns its caption."""
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
    title="Four shifts and the decisions of source-only"
    if len(problems) == len(SHIFTS)
    else "How the domains differ, and the decisions of source-only",
  )
  caption = (
    "Training points of the first seed. The shade is the class that "
    "source-only, trained on the upper row, predicts."
  )
  return {"data.png": caption}
