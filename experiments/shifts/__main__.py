"""Compares adaptation methods on four shifts of two-dimensional data.

Each method trains the same kind of classifier, skada-bench's SVC, for source
and target domains that differ in one way: by their points (covariate), their
shares of the classes (target), the places of the classes (concept), or all but
one direction (subspace). A seed draws new data, the same for every method, so
that a gain over source-only is a paired difference. Hyper-parameters are
chosen for each data set by a rule that sees no target label; what an oracle
with labels of target validation points would have chosen is reported beside.

A finished cell, a method on a shift, is a file in the run folder: a run that
was cut off goes on with --resume behind the last one.

  python -m experiments.shifts
  python -m experiments.shifts --shifts target --methods tars bbse --seeds 20
  python -m experiments.shifts --resume --select importance_weighted
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments.frame import cells
from experiments.frame import commands
from experiments.frame import folders
from experiments.shifts.choice import Seen
from experiments.shifts.choice import choose
from experiments.shifts.choice import scores_of
from experiments.shifts.data import SHIFTS
from experiments.shifts.data import Sample
from experiments.shifts.data import draw
from experiments.shifts.methods import METHODS
from experiments.shifts.methods import Lesson
from experiments.shifts.methods import Task
from experiments.shifts.methods import fit
from experiments.shifts.methods import logits
from experiments.shifts.methods import source_only
from experiments.shifts.report import Results
from experiments.shifts.report import write
from kdjax import reweighting

BOUNDS = "source_only", "target_only"


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares methods on four shifts of two-dimensional data.

  Attributes:
    shifts: the shifts, some of the four.
    methods: the methods that are compared with source_only and target_only;
      help: print them.
    select: the rule that chooses a hyper-parameter for each data set without
      target labels. By validation points of the source: source_accuracy;
      importance_weighted, the same under importance weights;
      dev, that with a control variate; reverse, the accuracy of a
      classifier that learns the predictions for the target.
      By predictions of the target's: entropy, information, bnm, snd; guarded,
      the information among candidates within 2 points of the best source
      accuracy. The report compares them all.
    seeds: the number of data sets of each shift.
    size: each domain has 8 times so many training points, 12 times under the
      subspace shift, and a quarter as many validation points.
    test_size: the same for target test points.
  """

  workdir: str = "runs/shifts"
  shifts: tuple[Literal["covariate", "target", "concept", "subspace"], ...] = (
    SHIFTS
  )
  methods: Annotated[
    tuple[str, ...] | None, commands.optional("all", "NAME ...")
  ] = None
  select: Literal[
    "source_accuracy",
    "importance_weighted",
    "dev",
    "reverse",
    "entropy",
    "information",
    "bnm",
    "snd",
    "guarded",
  ] = "guarded"
  seeds: int = 10
  size: int = 80
  test_size: int = 250


class Problem(NamedTuple):
  """The data of a seed.

  Attributes:
    train: what methods see.
    target_labels: of the target's training points, for target_only alone.
    source: source validation points.
    target: target validation points; their labels are for the oracle.
    test: target test points.
    ratios: density ratios of the target to the source at `source`.
  """

  train: Task
  target_labels: np.ndarray
  source: Sample
  target: Sample
  test: Sample
  ratios: jax.Array


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  methods: tuple[str, ...]


@jax.jit
def _density_ratios(source: jax.Array, target: jax.Array) -> jax.Array:
  return reweighting.ulsif_weights(
    source, target, gamma=1.0, ridge=0.1, alpha=0.0, normalize=False
  )


def make_problem(config: Config, shift: str, seed: int) -> Problem:
  """Draws the data of a seed."""
  numbers = config.seed, SHIFTS.index(shift), seed
  generator = np.random.default_rng(numbers)

  def sample(domain: str, size: int) -> Sample:
    return draw(generator, shift, domain, size)

  (points, labels), source = (
    sample("source", size) for size in (config.size, config.size // 4)
  )
  (target_points, target_labels), target, test = (
    sample("target", size)
    for size in (config.size, config.size // 4, config.test_size)
  )
  return Problem(
    Task(points, labels, target_points),
    target_labels,
    source,
    target,
    test,
    _density_ratios(source.points, target_points),
  )


def candidates_of(method: str) -> tuple[Any, ...]:
  """The hyper-parameters that are tried."""
  if method in BOUNDS:
    return (None,)
  return tuple(METHODS[method].candidates)


def learn(
  task: Task,
  method: str,
  candidate: Any,
  target_labels: np.ndarray,
) -> Lesson:
  """The classifier's training data; target labels are for target_only."""
  if method == "target_only":
    return Lesson(task.target, target_labels)
  if method == "source_only":
    return source_only(task)
  return METHODS[method].learn(task, candidate)


def examine(problem: Problem, method: str, candidate: Any) -> Seen:
  """Trains the classifier and scores it."""
  task = problem.train
  lesson = learn(task, method, candidate, problem.target_labels)
  margins = fit(lesson)

  def hits(sample: Sample, place: Any) -> np.ndarray:
    predicted = margins(place(sample.points)) > 0
    return np.asarray(predicted == sample.labels, np.float32)

  scores = scores_of(
    hits(problem.source, lesson.map_source),
    problem.ratios,
    logits(margins(lesson.map_target(problem.target.points))),
  )
  # The way back: source and target exchange their roles.
  labels = (margins(lesson.map_target(task.target)) > 0).astype(np.int32)
  back = Task(task.target, labels, task.source)
  returned = learn(back, method, candidate, task.labels)
  there = returned.map_target(problem.source.points)
  right = (fit(returned)(there) > 0) == problem.source.labels
  return Seen(
    {name: float(x) for name, x in scores.items()}
    | {"reverse": float(right.mean())},
    float(hits(problem.target, lesson.map_target).mean()),
    float(hits(problem.test, lesson.map_target).mean()),
  )


def make_cell(method: str, problems: list[Problem]) -> dict[str, Any]:
  """Examines all candidates of a method for all seeds of a shift."""
  candidates = candidates_of(method)
  seen = [
    [examine(problem, method, candidate) for candidate in candidates]
    for problem in problems
  ]
  return {"candidates": candidates, "seen": seen}


def read(job: Job) -> Results:
  """The accuracies that every rule chose in all cells of the flags."""

  def chosen(shift: str, method: str) -> dict[str, np.ndarray]:
    cell = cells.Cells(job.run.path).read(shift, method)
    rows = [
      choose([Seen(*x) for x in candidates]) for candidates in cell["seen"]
    ]
    return {rule: np.array([row[rule] for row in rows]) for rule in rows[0]}

  return {
    shift: {method: chosen(shift, method) for method in job.methods}
    for shift in job.config.shifts
  }


def prepare(config: Config) -> Job:
  """Does all steps that a wrong flag makes fail; makes the run folder last."""
  commands.expect_positive(config, "seeds", "test_size")
  commands.expect(config, "size", config.size >= 20, "20 or more")
  met = 0 < len(set(config.shifts)) == len(config.shifts)
  commands.expect(config, "shifts", met, "one or more different shifts")
  known = METHODS
  if config.methods is not None:
    commands.expect_some(config, "methods", known)
  methods = [m for m in known if m in (config.methods or known)]
  run = folders.RunFolder(config, free=("methods", "select", "shifts"))
  first, last = BOUNDS
  return Job(config, run, commands.console(), (first, *methods, last))


def execute(job: Job) -> Results:
  """Computes the missing cells and writes the report."""
  config, console = job.config, job.console
  files = cells.Cells(job.run.path)
  names = itertools.product(config.shifts, job.methods)
  problems: dict[str, list[Problem]] = {}
  for (shift, method), update in files.missing(console, names):
    if shift not in problems:
      problems = {
        shift: [make_problem(config, shift, i) for i in range(config.seeds)]
      }
    files.write(make_cell(method, problems[shift]), shift, method)
    update(1, f"{method} on {shift}")
  results = read(job)
  first = {shift: make_problem(config, shift, 0) for shift in config.shifts}
  write(job, results, first)
  return results


def describe_methods() -> dict[str, tuple[str, str]]:
  """Method -> its area and its name, for `--methods help`."""
  return {name: (method.kind, method.name) for name, method in METHODS.items()}


def main(config: Config) -> Results:
  """Runs the experiment; raises an error where the command line prints it."""
  return execute(prepare(config))


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, describe_methods)
