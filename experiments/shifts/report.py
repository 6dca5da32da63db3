"""The tables, the figures and the report of `experiments.shifts`."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap, Normalize

from experiments.frame import plots, rules, statistics, tables
from experiments.shifts.choice import CHANCE, ORACLE
from experiments.shifts.methods import METHODS, NAMES, ROWS, fit, source_only

# Shift -> method -> rule -> accuracies on target test points, `[seeds]`.
Results = dict[str, dict[str, dict[str, np.ndarray]]]
BLIND, BEST = "chosen without target labels", "chosen by an oracle"
LIMIT = 20.0  # points: where colors end, so that small gains are seen too
CLASSES = plots.BLUE, plots.RED
# Shift -> method -> its gain over source-only.
Verdicts = dict[str, dict[str, statistics.Gain]]


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


def gain_maps(
  path: plots.Path,
  panels: Mapping[str, Verdicts],
  starts: Mapping[str, float],
  bounds: Mapping[str, float],
) -> dict[str, str]:
  """Heat maps of gains by shift and method; the first gives the title.

  `starts` and `bounds` are the accuracies of source-only and target-only.
  """
  blind = next(iter(panels.values()))
  methods = list(next(iter(blind.values())))
  kinds = Counter(METHODS[method].kind for method in methods)
  kinds["target labels"] = 1
  names = [*(NAMES[name] for name in methods), "target-only"]
  verdicts = [[x[method].verdict for x in blind.values()] for method in methods]
  most = max(row.count("helped") for row in verdicts)
  title = "No method is clearly better than source-only"
  if "unknown" in itertools.chain(*verdicts):
    title = statistics.TOO_FEW.capitalize()
  elif most:
    title = f"No method helps on more than {most} of {len(blind)} shifts"
  title += ": gain over source-only, points"
  width = len(panels) * max(0.95 * len(blind), 2.4)
  width += 1.9 + 0.07 * max(map(len, names))
  size = {"width": width, "height": 2.0 + 0.33 * len(names)}
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    for axes, (name, gains) in zip(grid, panels.items(), strict=True):
      rows = [[x[method] for x in gains.values()] for method in methods]
      points = [[gain.mean for gain in row] for row in rows]
      points.append([bounds[shift] - starts[shift] for shift in gains])
      points = 100 * np.array(points)
      clear = [[x.verdict in statistics.MARKS for x in row] for row in rows]
      plots.heat_map(
        axes,
        points,
        rows=names,
        columns=[f"{shift}\nfrom {x:.1%}" for shift, x in starts.items()],
        texts=[f"{round(x, 1) + 0.0:+.1f}" for x in points.ravel()],  # no -0.0
        bold=np.array([*clear, [False] * len(starts)]),
        cmap=plots.GAINS,
        norm=Normalize(-LIMIT, LIMIT),
      )
      for end in np.cumsum(list(kinds.values()))[:-1]:
        axes.axhline(end - 0.5, color="white", lw=5)
      axes.set_title(name)
    for axes in grid[1:]:
      axes.tick_params(labelleft=False)
    end = 0
    for kind, count in kinds.items():
      place = len(blind) - 0.4, end + (count - 1) / 2
      grid[-1].text(*place, kind, va="center", color="#595959")
      end += count
  caption = (
    "Gain over source-only in points of target accuracy, mean over seeds, bold "
    "where it is clear. Below each shift is the accuracy of source-only."
  )
  return {path.name: caption}


def samples(
  path: plots.Path, problems: Mapping[Any, Any], title: str
) -> dict[str, str]:
  """Both domains of each shift and the decisions of source-only there."""
  count = len(problems)
  size = {"width": 0.4 + 2.5 * count, "height": 5.4}
  with plots.figure(path, title=title, rows=2, columns=count, **size) as grid:
    grid = np.reshape(grid, (2, count))
    for column, (shift, problem) in zip(grid.T, problems.items(), strict=True):
      source, labels, target = problem.train
      parts = (source, labels), (target, problem.target_labels)
      margins = fit(source_only(problem.train))
      everything = np.concatenate([source, target])
      low, high = everything.min(0) - 0.3, everything.max(0) + 0.3
      plane = np.meshgrid(*np.linspace(low, high, 120).T)
      corners = np.stack([x.ravel() for x in plane], 1)
      sides = (margins(corners) > 0).reshape(plane[0].shape)
      for axes, (points, classes) in zip(column, parts, strict=True):
        colours = ListedColormap(CLASSES)
        style = {"vmin": 0, "vmax": 1, "alpha": 0.15, "rasterized": True}
        axes.pcolormesh(*plane, sides, cmap=colours, lw=0, **style)
        colours = np.array(CLASSES)[classes]
        axes.scatter(*points.T, s=6, c=colours, alpha=0.6, lw=0)
        axes.set(xticks=[], yticks=[])
        plots.blank(axes)
      column[0].set_title(shift)
    for axes, name in zip(grid[:, 0], ("source", "target"), strict=True):
      axes.set_ylabel(name)
  caption = (
    "Training points of the first seed. The shade is the class that "
    "source-only, trained on the upper row, predicts."
  )
  return {path.name: caption}
