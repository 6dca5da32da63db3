"""Trains a method's candidates, scores them and lets each rule choose."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import rules
from experiments.shifts import methods
from experiments.shifts.data import SHIFTS, Sample, draw
from experiments.shifts.methods import Lesson, Task, fit
from kdjax import reweighting

# No rules: by labels of target validation points, and the mean of all.
ORACLE, CHANCE = "oracle", "chance"


class Problem(NamedTuple):
  """The data of a seed."""

  train: Task  # the data for methods
  # Of the target's training points, for target_only alone.
  target_labels: np.ndarray
  source: Sample  # source validation points
  target: Sample  # target validation points; their labels are for the oracle
  test: Sample  # target test points
  ratios: jax.Array  # density ratios of the target to the source at `source`


class Seen(NamedTuple):
  """The scores of a candidate on the data of a seed."""

  scores: dict[str, float]  # of the rules, without target labels
  target_accuracy: float  # on target validation points, for the oracle alone
  test_accuracy: float  # on target test points; it chooses nothing


@jax.jit
def scores_of(
  source_hits: jax.Array, ratios: jax.Array, target_logits: jax.Array
) -> dict[str, jax.Array]:
  """The scores of all rules but reverse, which has to train again."""
  errors = 1.0 - source_hits
  return rules.score(source_hits, errors, ratios, target_logits, target_logits)


_density_ratios = jax.jit(
  functools.partial(
    reweighting.ulsif_weights, gamma=1.0, ridge=0.1, alpha=0.0, normalize=False
  )
)


def make_problem(config: Any, shift: str, seed: int) -> Problem:
  """Draws the data of a seed."""
  numbers = config.seed, SHIFTS.index(shift), seed
  generator = np.random.default_rng(numbers)

  def sample(domain: str, size: int) -> Sample:
    return draw(generator, shift, domain, size)

  train, source = (sample("source", x) for x in (config.size, config.size // 4))
  sizes = config.size, config.size // 4, config.test_size
  target_train, target, test = (sample("target", x) for x in sizes)
  ratios = _density_ratios(source.points, target_train.points)
  task = Task(*train, target_train.points)
  return Problem(task, target_train.labels, source, target, test, ratios)


def candidates_of(method: str) -> tuple[Any, ...]:
  """The hyper-parameters that are tried."""
  row = methods.METHODS.get(method)
  return tuple(row.candidates) if row else (None,)


def learn(
  task: Task, method: str, candidate: Any, target_labels: np.ndarray
) -> Lesson:
  """The classifier's training data; target labels are for target_only."""
  if method == "target_only":
    return Lesson(task.target, target_labels)
  if method == "source_only":
    return methods.source_only(task)
  return methods.METHODS[method].learn(task, candidate)


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
    methods.logits(margins(lesson.map_target(problem.target.points))),
  )
  # The way back: source and target exchange their roles.
  labels = (margins(lesson.map_target(task.target)) > 0).astype(np.int32)
  back = Task(task.target, labels, task.source)
  returned = learn(back, method, candidate, task.labels)
  there = returned.map_target(problem.source.points)
  right = (fit(returned)(there) > 0) == problem.source.labels
  seen = {name: float(x) for name, x in scores.items()}
  reached = (
    float(hits(sample, lesson.map_target).mean())
    for sample in (problem.target, problem.test)
  )
  return Seen(seen | {"reverse": float(right.mean())}, *reached)


def choose(candidates: Sequence[Seen]) -> dict[str, float]:
  """Lets each rule choose a candidate on the data of a seed."""
  scores = {
    name: np.array([seen.scores[name] for seen in candidates])
    for name in candidates[0].scores
  }
  tests = np.array([seen.test_accuracy for seen in candidates])
  chosen = {x: float(tests[rules.choose(x, scores)]) for x in rules.RULES}
  best = np.argmax([seen.target_accuracy for seen in candidates])
  return chosen | {ORACLE: float(tests[best]), CHANCE: float(tests.mean())}
