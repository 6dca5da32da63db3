"""Training of a method's students on some domains, as one program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.frame import commands
from experiments.generalize.data import Data
from experiments.generalize.data import Split
from experiments.generalize.data import split_domains
from experiments.generalize.data import take
from experiments.generalize.methods import Setting
from experiments.generalize.methods import draw_trials
from experiments.generalize.methods import make_learner
from kdjax import training

CHUNK = 500  # images that are evaluated at once


class Student(NamedTuple):
  """The state of its training, and its hyper-parameters."""

  state: training.TrainState
  trial: dict[str, jax.Array]


class Seed(NamedTuple):
  """The random choices of a seed, alike for all methods and trials."""

  key: jax.Array
  split: Split


class Program(NamedTuple):
  """The functions of a method and a number of training domains."""

  start: Callable[..., Any]  # `(seeds) -> students`, `[seeds, trials]`
  # `(students, seeds, data, shown, held_out, first) -> students, seen`,
  # compiled: steps from `first` to the next evaluation. Its accuracies `[seeds,
  # trials, domains]` are "outside", of the images of each domain to choose by,
  # and "tested", of those of domains held out to report.
  advance: Callable[..., Any]


def make_seeds(config: Any, data: Data) -> Seed:
  """The seeds, `[seeds, ...]`."""

  def make(number: jax.Array) -> Seed:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    split_key, key = jax.random.split(key)
    return Seed(key, split_domains(split_key, data))

  return jax.vmap(make)(jnp.arange(config.seeds))


def make_program(name: str, config: Any, data: Data, domains: int) -> Program:
  """Makes the program of a method for a number of training domains."""
  setting = Setting(config, domains, data.classes, data.shape)

  def start_seed(seed: Seed) -> Student:
    keys = jax.random.split(jax.random.fold_in(seed.key, 0), 3)

    def start(trial: dict[str, jax.Array]) -> Student:
      learner = make_learner(name, setting, trial, keys[0])
      return Student(learner.init(keys[1], setting.batch()), trial)

    return jax.vmap(start)(draw_trials(name, config, keys[2]))

  def step(student: Student, seed: Seed, data: Data, shown: Any, number: Any):
    key = jax.random.fold_in(jax.random.fold_in(seed.key, 1), number)
    batch_key, key = jax.random.split(key)
    # With replacement, as DomainBed's loaders draw.
    place = jax.random.randint(
      batch_key, (domains, config.batch_size), 0, seed.split.inside.shape[1]
    )
    index = jnp.take_along_axis(seed.split.inside[shown], place, 1)
    batch = take(data, shown, index)
    batch["mask"] = jnp.ones(index.shape, bool)
    learner = make_learner(name, setting, student.trial)
    state, _ = learner.step(student.state, {}, batch, key, axis_name=None)
    return student._replace(state=state)

  def accuracies(student: Student, part: Any) -> jax.Array:
    """The accuracy on each domain of a part, `[domains, n, ...]`."""
    learner, size = make_learner(name, setting, student.trial), CHUNK
    if config.network == "mlp":
      size = part["label"].shape[1]
    # Maps of all images at once would not fit.
    plan = training.epoch_plan(part["label"].shape[1], size)
    evaluate = training.scan_evaluation(learner.evaluate)
    seen = jax.vmap(lambda domain: evaluate(student.state, {}, domain, plan))(
      part
    )
    return training.mean_metrics(seen)["accuracy"]

  over = functools.partial(
    training.sweep,
    shared=(),
    chunk_size=commands.students_at_a_time(config.network),
  )

  def advance(
    students: Student,
    seeds: Seed,
    data: Data,
    shown: jax.Array,
    held_out: jax.Array,
    first: jax.Array,
  ) -> Any:
    steps = first + jnp.arange(config.evaluate_every)

    def of_seed(students: Student, seed: Seed) -> Any:
      every = jnp.arange(len(data.label))
      some = slice(config.evaluate_on or None)
      take_some = functools.partial(take, data)
      split = jax.tree.map(lambda index: index[:, some], seed.split)
      parts = {
        "outside": take_some(every, split.outside),
        "tested": take_some(held_out, split.tested[held_out]),
      }

      def of_trial(student: Student) -> Any:
        student, _ = jax.lax.scan(
          lambda student, number: (
            step(student, seed, data, shown, number),
            None,
          ),
          student,
          steps,
        )
        return student, {k: accuracies(student, v) for k, v in parts.items()}

      return over(of_trial)(students)

    return over(of_seed)(students, seeds)

  # To start is cheaper than to compile how.
  return Program(jax.vmap(start_seed), jax.jit(advance))
