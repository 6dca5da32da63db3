"""The choices, the tables and the report of `experiments.generalize`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import commands
from experiments.frame import statistics
from experiments.generalize.data import DOMAINS
from experiments.generalize.methods import METHODS
from experiments.generalize.methods import TARGET_ONLY
from experiments.generalize.plots import accuracy_grid
from kdjax import adaptation
from kdjax import generalization

TRAINING, LEFT_OUT, ORACLE = RULES = (
  "Training domains",
  "Leave one domain out",
  "Oracle",
)
MEANINGS = {
  TRAINING: "the trial and step whose accuracy on images of the training "
  "domains, which trained nobody, is best",
  LEFT_OUT: "the trial and step that are best on each training domain, had it "
  "been held out too",
  ORACLE: "the trial whose last step is best on images of the target. **It "
  "uses target labels**: an upper bound, no estimate",
}

MARKS = {"helped": " **+**", "hurt": " **-**", "unclear": ""}


class Results(NamedTuple):
  """Accuracies on targets, `[seeds, targets]`.

  Attributes:
    chosen: rule -> method -> those of the students that the rule chose.
    target_only: of students that were trained on the target.
  """

  chosen: dict[str, dict[str, np.ndarray]]
  target_only: np.ndarray


def choose(job: Any, contents: dict[Any, Any]) -> Results:
  """Lets each rule choose a student for each method, seed and target.

  Args:
    job: the `Job` of the experiment.
    contents: of the cells, by method and domains held out.

  Returns:
    The accuracies of the chosen students on images of the target.
  """
  rules = RULES if job.config.leave_one_out else (TRAINING, ORACLE)
  domains = range(len(DOMAINS[job.config.task]))

  def accuracies(method: str, held_out: tuple[int, ...], part: str) -> Any:
    """`[seeds, trials, steps, domains]`."""
    return np.moveaxis(np.array(contents[method, held_out][part]), 0, 2)

  def tested_on_other(method: str, target: int, other: int) -> np.ndarray:
    pair = tuple(sorted((target, other)))
    return accuracies(method, pair, "tested")[..., pair.index(other)]

  def select(rule: str, method: str, target: int) -> Any:
    outside = accuracies(method, (target,), "outside")
    if method == TARGET_ONLY:
      seen = outside[..., [target]]
      return generalization.training_domain_selection, seen
    if rule == TRAINING:
      seen = np.delete(outside, target, -1)
      return generalization.training_domain_selection, seen
    if rule == ORACLE:
      return generalization.oracle_selection, outside[..., target]
    others = [i for i in domains if i != target]
    seen = [tested_on_other(method, target, other) for other in others]
    return generalization.leave_one_domain_out_selection, np.stack(seen, -1)

  def report(rule: str, method: str, target: int) -> np.ndarray:
    selection, seen = select(rule, method, target)
    chosen = jax.vmap(selection)(jnp.asarray(seen, jnp.float32))
    tested = accuracies(method, (target,), "tested")[..., 0]
    run, step = np.asarray(chosen.run), np.asarray(chosen.step)
    return tested[np.arange(len(tested)), run, step]

  def all_targets(rule: str, method: str) -> np.ndarray:
    return np.stack([report(rule, method, t) for t in job.targets], -1)

  chosen = {
    rule: {method: all_targets(rule, method) for method in job.methods}
    for rule in rules
  }
  return Results(chosen, all_targets(TRAINING, TARGET_ONLY))


def write(job: Any, results: Results) -> None:
  """Draws the figure, writes report.md and prints the tables.

  Args:
    job: the `Job` of the experiment.
    results: of :func:`choose`.
  """
  findings = conclude(results)
  parts = []
  for rule, rows in results.chosen.items():
    header, cells = make_table(job, rows, results.target_only)
    parts += [f"## {rule}", f"Chosen is {MEANINGS[rule]}."]
    parts.append(commands.markdown_table(header, cells))
    job.console.print(commands.console_table(header, cells, title=rule))
  caption = draw(job, results)
  file = job.run.report(
    f"# Generalization to an unseen domain: {job.config.task} "
    f"{job.config.dataset}",
    "\n".join(f"- {finding}" for finding in findings),
    f"![{caption}](accuracy.png)\n\n{caption}",
    *parts,
    setting(job),
    hyper_parameters(job),
  )
  for finding in findings:
    job.console.print(f"- {finding}", highlight=False)
  job.console.print(f"Report, plot and cells: {file.parent}")


def gain_of(method: str, rows: dict[str, np.ndarray]) -> statistics.Interval:
  """The gain over ERM, the mean over targets, paired by seed."""
  return statistics.paired_interval(rows[method].mean(1), rows["erm"].mean(1))


def judge(rows: dict[str, np.ndarray]) -> dict[str, str]:
  """Whether each method "helped", "hurt" or neither, "unclear".

  Args:
    rows: method -> accuracies `[seeds, targets]`, by one rule.

  Returns:
    method -> the verdict against ERM, after Holm's correction.
  """
  scores = {name: values.mean(1) for name, values in rows.items()}
  erm = scores.pop("erm")
  if not scores:
    return {}
  test = adaptation.negative_transfer_test(np.stack(list(scores.values())), erm)
  return dict(zip(scores, test.verdict, strict=True))


def make_table(
  job: Any, rows: dict[str, np.ndarray], target_only: np.ndarray
) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of a rule's table, in percent."""
  verdicts = judge(rows)

  def row(title: str, values: np.ndarray, gain: str = "") -> list[str]:
    columns = [*values.T, values.mean(1)]
    texts = (statistics.mean_std(x, scale=100, digits=1) for x in columns)
    return [title, *texts, gain]

  cells = [row(METHODS["erm"].title, rows["erm"])]
  for method, verdict in verdicts.items():
    ends = (100 * x for x in gain_of(method, rows))
    gain = statistics.gain(statistics.Interval(*ends), 1) + MARKS[verdict]
    cells.append(row(METHODS[method].title, rows[method], gain))
  cells.append(row("Target-only", target_only))
  targets = [DOMAINS[job.config.task][i] for i in job.targets]
  return ["", *targets, "mean", "gain over ERM (95 % interval)"], cells


def conclude(results: Results) -> list[str]:
  """What came out, in words."""
  means = [
    f"{rows['erm'].mean():.1%} ({rule.lower()})"
    for rule, rows in results.chosen.items()
  ]
  findings = [
    "Mean accuracy of ERM on targets, by the rule that chose: "
    f"{', '.join(means)}; of students trained on the target: "
    f"{results.target_only.mean():.1%}."
  ]
  if len(results.target_only) < 2:
    return [*findings, f"{statistics.ONE_SEED.capitalize()}."]
  return findings + [
    f"{rule}: {in_words(rows)}"
    for rule, rows in results.chosen.items()
    if len(rows) > 1
  ]


def in_words(rows: dict[str, np.ndarray]) -> str:
  """Who helped and who hurt by one rule, the largest gain first."""
  texts = {
    "helped": "helped, after Holm's correction: {}",
    "hurt": "hurt, after it: {}",
    "better": "better than ERM by their own interval alone: {}",
    "worse": "worse than ERM by it, so they may well hurt: {}",
    "unclear": "neither: {}",
  }
  groups: dict[str, list[str]] = {name: [] for name in texts}
  verdicts = judge(rows)
  gains = {method: gain_of(method, rows) for method in verdicts}
  for method in sorted(gains, key=lambda method: -gains[method].mean):
    gain, group = gains[method], verdicts[method]
    if group == "unclear" and gain.low > 0:
      group = "better"
    elif group == "unclear" and gain.high < 0:
      group = "worse"
    title = METHODS[method].title
    groups[group].append(f"{title} {100 * gain.mean:+.1f}")
  return (
    "; ".join(
      text.format(", ".join(groups[name]) or "none")
      for name, text in texts.items()
    )
    + "."
  )


def draw(job: Any, results: Results) -> str:
  """Saves the figure; returns its caption."""
  rows = results.chosen[TRAINING]
  verdicts = judge(rows)
  gains = {
    method: gain_of(method, rows).mean
    for method, verdict in verdicts.items()
    if verdict == "helped"
  }
  title = "No method surely beats ERM without target labels"
  if len(results.target_only) < 2:
    title = statistics.ONE_SEED.capitalize()
  elif gains:
    best = max(gains, key=lambda method: gains[method])
    title = (
      f"{METHODS[best].title} gains most over ERM without target labels, "
      f"{100 * gains[best]:+.1f} points"
    )
  targets = [DOMAINS[job.config.task][i] for i in job.targets]
  accuracy_grid(
    job.run.path / "accuracy.png",
    {
      rule: {
        METHODS[method].title: with_mean(values)
        for method, values in of_rule.items()
      }
      for rule, of_rule in results.chosen.items()
    },
    [*(f"target {name}" for name in targets), "mean of targets"],
    target_only=with_mean(results.target_only),
    oracle=ORACLE,
    title=title,
  )
  return (
    "Accuracy on the target, means with 95 % intervals, by the rule that "
    "chose the student. Open marks: chosen with target labels. Dashed: ERM, "
    "chosen on training domains. Dotted: trained on the target."
  )


def with_mean(values: np.ndarray) -> np.ndarray:
  """Appends the mean over targets, `[seeds, targets + 1]`."""
  return np.column_stack([values, values.mean(1)])


def setting(job: Any) -> str:
  """Who saw what, in words."""
  config, size = job.config, job.data.label.shape[1]
  low, high = config.learning_rates
  return (
    "## The setting\n\n"
    f"Mean ± standard deviation over {config.seeds} seeds. The gain is that of "
    "the mean over targets, paired by seed, with its t interval, which holds "
    "by itself with probability .95; + and - mark "
    "p < .05 after Holm's correction over all methods.\n\n"
    f"Each domain has {size} images, none is in two. A fifth of each trains "
    "nobody and is what rules look at; the accuracy on the target is that of "
    f"its other images (at most {config.evaluate_on or size} of each part). "
    f"Each student ({config.network}) saw batches of {config.batch_size} "
    f"images of each training domain for {config.steps} steps of Adam and was "
    f"looked at every {config.evaluate_every}. For each method and seed "
    f"{config.trials} sets of hyper-parameters were tried: the defaults, then "
    f"learning rates between {low:g} and {high:g} and the method's own as "
    "below. Seed i starts from the same weights and sees the same batches and "
    "learning rates under every method. Target-only is ERM on the target's own "
    "images; one half of the other fifth chose its student, the other half is "
    "what it reports."
  )


def hyper_parameters(job: Any) -> str:
  """The table of what was swept."""
  cells = []
  for name in job.methods:
    method = METHODS[name]
    search, anneal = method.search, method.anneal
    scale = "" if search.linear else ", logarithmic"
    cells.append(
      [
        method.title,
        method.swept or "none",
        f"{search.default:.3g}" if method.swept else "",
        f"{search.low:g} to {search.high:g}{scale}" if method.swept else "",
        f"{anneal.default:g} ({anneal.low:g} to {anneal.high:g})"
        if anneal
        else "",
      ]
    )
  header = [
    "",
    "swept",
    "default",
    "drawn from",
    "after this part of the steps",
  ]
  return commands.markdown_table(header, cells)
