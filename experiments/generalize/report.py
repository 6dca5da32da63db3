"""The choices, the tables and the report of `experiments.generalize`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.frame import plots, statistics, tables
from experiments.generalize import methods
from experiments.generalize.data import DOMAINS
from experiments.generalize.methods import NAMES, TARGET_ONLY
from kdjax import selection

SHADES = (plots.BLUE, plots.GREEN, plots.RED)
TRAINING, LEFT_OUT, ORACLE = RULES = (
  "Training domains",
  "Leave one domain out",
  "Oracle",
)
MEANINGS = {
  TRAINING: "the trial and step whose accuracy on held-out images of the "
  "training domains is best",
  LEFT_OUT: "the trial and step that are best on each training domain where "
  "it was held out too",
  ORACLE: "the trial whose last step is best on images of the target. **It "
  "uses target labels**: an upper bound, not an estimate",
}


class Results(NamedTuple):
  """Accuracies on targets, `[seeds, targets]`."""

  # Rule -> method -> those of the students that the rule chose.
  chosen: dict[str, dict[str, np.ndarray]]
  target_only: np.ndarray  # of students that were trained on the target


def choose(job: Any, contents: dict[Any, Any]) -> Results:
  """Lets each rule choose a student for each method, seed and target."""
  config, domains = job.config, range(len(DOMAINS[job.config.task]))
  rules = RULES if config.leave_one_out else (TRAINING, ORACLE)

  def accuracies(method: str, held_out: tuple[int, ...], part: str) -> Any:
    """`[seeds, trials, steps, domains]`."""
    return np.moveaxis(np.array(contents[method, held_out][part]), 0, 2)

  def select(rule: str, method: str, target: int) -> Any:
    outside = accuracies(method, (target,), "outside")
    if method == TARGET_ONLY:
      return selection.training_domain_selection, outside[..., [target]]
    if rule == TRAINING:
      seen = np.delete(outside, target, -1)
      return selection.training_domain_selection, seen
    if rule == ORACLE:
      return selection.oracle_selection, outside[..., target]
    seen = []
    for other in (i for i in domains if i != target):
      pair = tuple(sorted((target, other)))
      seen.append(accuracies(method, pair, "tested")[..., pair.index(other)])
    return selection.leave_one_domain_out_selection, np.stack(seen, -1)

  def all_targets(rule: str, method: str) -> np.ndarray:
    columns = []
    for target in config.targets:
      select_one, seen = select(rule, method, target)
      chosen = jax.vmap(select_one)(jnp.asarray(seen, jnp.float32))
      tested = accuracies(method, (target,), "tested")[..., 0]
      run, step = np.asarray(chosen.run), np.asarray(chosen.step)
      columns.append(tested[np.arange(len(tested)), run, step])
    return np.stack(columns, -1)

  chosen = {
    rule: {method: all_targets(rule, method) for method in config.methods}
    for rule in rules
  }
  return Results(chosen, all_targets(TRAINING, TARGET_ONLY))


def write(job: Any, results: Results) -> None:
  """Draws the figure, writes report.md and prints the tables."""
  config, size = job.config, job.data.label.shape[1]
  low, high = config.learning_rates
  parts = []
  for rule, rows in results.chosen.items():
    parts += [f"## {rule}", f"This rule chooses {MEANINGS[rule]}."]
    parts.append(make_table(job, rule, rows, results.target_only))
  job.run.publish(
    job.console,
    f"Generalization to an unseen domain: {config.task} {config.dataset}",
    conclude(results),
    draw(job, results),
    *parts,
    "## The setting",
    f"{statistics.over_seeds(config.seeds)}. The gain is that of "
    f"the mean over targets. {statistics.LEGEND}",
    f"Each domain has {size} images; no image is in two domains. A fifth of "
    "each domain is held out for the rules; the accuracy on the target is that "
    f"of its other images (at most {config.evaluate_on or size} of each part). "
    f"Each student ({config.network}) saw batches of {config.batch_size} "
    f"images of each training domain for {config.steps} steps of Adam and was "
    f"evaluated every {config.evaluate_every}. For each method and seed "
    f"{config.trials} sets of hyper-parameters were tried: the defaults, then "
    f"learning rates between {low:g} and {high:g} and the method's own as "
    "below. Seed i has the same initial weights, batches and learning rates "
    "under every method. Target-only is ERM on the target's own images; one "
    "half of the held-out fifth chose its student, the other half gives its "
    "accuracy.",
    hyper_parameters(job),
  )


def draw(job: Any, results: Results) -> dict[str, str]:
  """Accuracies by rule and method, a panel a target; returns the caption."""

  def with_mean(values: np.ndarray) -> np.ndarray:
    """`[targets + 1, seeds]`, the last row the mean over targets."""
    return np.column_stack([values, values.mean(1)]).T

  targets = (DOMAINS[job.config.task][i] for i in job.config.targets)
  panels = [*(f"target {name}" for name in targets), "mean of targets"]
  first = next(iter(results.chosen.values()))
  # Of ERM by the first rule, and of target-only.
  lines = [with_mean(x).mean(1) for x in (first["erm"], results.target_only)]
  places = np.arange(len(first))
  shifts = np.linspace(-0.22, 0.22, len(results.chosen))
  looks = {
    rule: {"marker": "D", "mfc": "white"} if rule == ORACLE else {"marker": "o"}
    for rule in results.chosen
  }
  size = {"width": 1.8 + 2.3 * len(panels), "height": 2.0 + 0.32 * len(first)}
  path = job.run.path / "accuracy.png"
  title = statistics.headline(gains_of(first), NAMES, "ERM")
  title += ", by training domains"
  with plots.figure(path, title=title, columns=len(panels), **size) as grid:
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
      ends = [x[i] for x in lines]
      for end, style in zip(ends, ("--", ":"), strict=True):
        axes.axvline(end, color=plots.GREY, ls=style, lw=1.3)
      for (rule, rows), shade, shift in zip(
        results.chosen.items(), SHADES, shifts, strict=False
      ):
        for place, values in zip(places + shift, rows.values(), strict=True):
          rates = with_mean(values)[i]
          mean = rates.mean()
          # No accuracy is outside of [0, 1].
          span = np.clip(statistics.interval(rates) or (mean, mean), 0, 1)
          ends += [*span]
          axes.plot(span, (place, place), color=shade, lw=1.2)
          axes.plot(mean, place, ms=4.5, color=shade, **looks[rule])
      plots.name_rows(axes, [NAMES[x] if i == 0 else "" for x in first])
      margin = 0.05 * max(max(ends) - min(ends), 0.1)
      limits = max(min(ends) - margin, 0), min(max(ends) + margin, 1)
      axes.set(xlabel="accuracy", xlim=limits, title=panel)
      axes.xaxis.set_major_formatter(plots.percent)
      axes.xaxis.set_major_locator(MaxNLocator(4))
      axes.grid(visible=True, color=plots.FAINT, axis="y", lw=0.6)
    marks = [
      plots.mark(rule, shade, **looks[rule])
      for rule, shade in zip(results.chosen, SHADES, strict=False)
    ]
    styles = {"ERM": "--", "target-only": ":"}
    marks += [plots.line(x, plots.GREY, ls, 2.0) for x, ls in styles.items()]
    plots.legend(grid, marks)
  caption = (
    "Accuracy on the target, means with 95 % intervals, by the rule that "
    "chose the student. Open marks: chosen with target labels. Dashed: ERM, "
    "chosen on training domains. Dotted: trained on the target."
  )
  return {path.name: caption}


def gains_of(rows: dict[str, np.ndarray]) -> dict[str, statistics.Gain]:
  """The gains over ERM of accuracies `[seeds, targets]`, their means."""
  scores = {name: values.mean(1) for name, values in rows.items()}
  erm = scores.pop("erm")
  return statistics.compare(scores, erm)


def make_table(
  job: Any, rule: str, rows: dict[str, np.ndarray], target_only: np.ndarray
) -> tables.Table:
  """A rule's table, in percent."""
  gains = gains_of(rows)
  cells = []
  for name, values in (rows | {TARGET_ONLY: target_only}).items():
    columns = map(statistics.percent, (*values.T, values.mean(1)))
    cells.append([NAMES[name], *columns, statistics.cell(gains, name)])
  targets = [DOMAINS[job.config.task][i] for i in job.config.targets]
  header = ["", *targets, "mean", "gain over ERM (95 % interval)"]
  return tables.Table(header, cells, rule)


def conclude(results: Results) -> list[str]:
  """The findings, in words."""
  means = [
    f"{rows['erm'].mean():.1%} ({rule.lower()})"
    for rule, rows in results.chosen.items()
  ]
  texts = [
    "Mean accuracy of ERM on targets, by the rule that chose: "
    f"{', '.join(means)}; of students trained on the target: "
    f"{results.target_only.mean():.1%}."
  ]
  for rule, rows in results.chosen.items():
    found = statistics.findings(gains_of(rows), NAMES, "ERM")
    texts += [f"{rule}: {' '.join(found)}"] if found else []
  return texts


def hyper_parameters(job: Any) -> tables.Table:
  """The hyper-parameters that were drawn."""
  cells = []
  for name in job.config.methods:
    row, search = methods.row_of(name), methods.search_of(name)
    swept = ["none", "", ""]
    if row.tuned:
      scale = "" if search.linear else ", logarithmic"
      range_ = f"{search.low:g} to {search.high:g}{scale}"
      swept = [row.tuned, f"{search.default:.3g}", range_]
    x = row.anneal
    late = f"{x.default:g} ({x.low:g} to {x.high:g})" if x else ""
    cells.append([row.title, *swept, late])
  header = [
    "",
    "swept",
    "default",
    "drawn from",
    "after this part of the steps",
  ]
  return tables.Table(header, cells, shown=())
