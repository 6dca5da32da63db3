"""Trains all cells: a method's students on some domains, as one program."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.frame import cells, commands, rounds
from experiments.generalize import data as domains_data
from experiments.generalize import methods
from experiments.generalize.data import DOMAINS, Data, take
from experiments.generalize.methods import TARGET_ONLY, make_learner
from kdjax import training

CHUNK = 500  # images that are evaluated at once


class Cell(NamedTuple):
  """A method and the domains held out; target-only sees nothing else."""

  method: str
  held_out: tuple[int, ...]

  def training(self, domains: int) -> tuple[int, ...]:
    """The domains that its students see."""
    if self.method == TARGET_ONLY:
      return self.held_out
    return tuple(i for i in range(domains) if i not in self.held_out)

  @property
  def path(self) -> tuple[str, str]:
    """The name of its file."""
    return self.method, "_".join(map(str, self.held_out))

  def describe(self, task: str) -> str:
    """The cell in words."""
    names = " and ".join(DOMAINS[task][i] for i in self.held_out)
    word = "on" if self.method == TARGET_ONLY else "without"
    return f"{methods.NAMES[self.method]} {word} {names}"


def plan(job: Any) -> list[Cell]:
  """All cells: each target held out alone and, for the rule, with another."""
  sets = [(target,) for target in job.config.targets]
  if job.config.leave_one_out:
    pairs = itertools.combinations(range(len(DOMAINS[job.config.task])), 2)
    sets += [pair for pair in pairs if set(pair) & set(job.config.targets)]
  grid = [Cell(*pair) for pair in itertools.product(job.config.methods, sets)]
  return grid + [Cell(TARGET_ONLY, (target,)) for target in job.config.targets]


def read(job: Any) -> dict[tuple[str, tuple[int, ...]], Any]:
  """The contents of all cells."""
  files = cells.Cells(job.run.path)
  return {tuple(cell): files.read(*cell.path) for cell in plan(job)}


def train(job: Any) -> None:
  """Trains the cells that the run folder has not, and saves each."""
  config, data = job.config, job.data
  seeds = jax.jit(lambda data: make_seeds(config, data))(data)
  own_split = domains_data.split_for_target(seeds.split)
  own_seeds = seeds._replace(split=own_split)
  programs: dict[Any, Any] = {}
  files = cells.Cells(job.run.path)
  by_path = {cell.path: cell for cell in plan(job)}
  for path, update in files.missing(job.console, by_path, config.steps):
    cell = by_path[path]
    shown = cell.training(len(data.label))
    used = own_seeds if cell.method == TARGET_ONLY else seeds
    kind = cell.method, len(shown)
    if kind not in programs:
      program = make_program(cell.method, config, data, len(shown))
      programs[kind] = program, program.start(used)
    program, students = programs[kind]
    trials, history = jax.device_get(students.trial), []
    for first in range(0, config.steps, config.evaluate_every):
      domains = jnp.array(shown), jnp.array(cell.held_out)
      students, seen = program.advance(
        students, used, data, *domains, jnp.int32(first)
      )
      history.append(jax.device_get(seen))
      accuracy = history[-1]["outside"][..., list(shown)].mean()
      note = f"{cell.describe(config.task)}, validation {accuracy:.1%}"
      update(first + config.evaluate_every, note)
    seen = rounds.stack_history(history) | trials
    files.write({k: x.tolist() for k, x in seen.items()}, *path)


class Student(NamedTuple):
  """The state of its training, and its hyper-parameters."""

  state: training.TrainState
  trial: dict[str, jax.Array]


class Seed(NamedTuple):
  """The random choices of a seed, alike for all methods and trials."""

  key: jax.Array
  split: domains_data.Split


class Program(NamedTuple):
  """The functions of a method and a number of training domains.

  `advance` trains from the step `first` to the next evaluation, whose
  accuracies `[seeds, trials, domains]` are "outside", of the images of each
  domain to choose by, and "tested", of those of domains held out to report.
  """

  start: Callable[..., Any]  # seeds -> students `[seeds, trials]`
  advance: Callable[..., Any]  # -> students, seen


def make_seeds(config: Any, data: Data) -> Seed:
  """The seeds, `[seeds, ...]`."""

  def make(key):
    split_key, key = jax.random.split(key)
    return Seed(key, domains_data.split_domains(split_key, data))

  return jax.vmap(make)(rounds.seed_keys(config))


def make_program(name: str, config: Any, data: Data, domains: int) -> Program:
  """Makes the program of a method for a number of training domains."""
  setting = methods.Setting(config, domains, data.classes, data.shape)

  def start_seed(seed):
    keys = jax.random.split(jax.random.fold_in(seed.key, 0), 3)

    def start(trial):
      learner = make_learner(name, setting, trial, keys[0])
      return Student(learner.init(keys[1], setting.batch()), trial)

    return jax.vmap(start)(methods.draw_trials(name, config, keys[2]))

  def step(student, seed, data, shown, number):
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

  def accuracies(student, part):
    learner = make_learner(name, setting, student.trial)
    count = part["label"].shape[1]
    # Maps of all images at once would not fit.
    size = count if config.network == "mlp" else CHUNK
    plan = training.epoch_plan(count, size)
    evaluate = training.scan_evaluation(learner.evaluate)
    evaluate = jax.vmap(evaluate, (None, None, 0, None))
    seen = evaluate(student.state, {}, part, plan)
    return training.mean_metrics(seen)["accuracy"]

  over = functools.partial(
    training.sweep,
    shared=(),
    chunk_size=commands.students_at_a_time(config.network),
  )

  def advance(students, seeds, data, shown, held_out, first):
    steps = first + jnp.arange(config.evaluate_every)

    def of_seed(students, seed):
      every, some = jnp.arange(len(data.label)), config.evaluate_on or None
      split = jax.tree.map(lambda index: index[:, :some], seed.split)
      parts = {
        "outside": take(data, every, split.outside),
        "tested": take(data, held_out, split.tested[held_out]),
      }

      def of_trial(student):
        def one(student, number):
          return step(student, seed, data, shown, number), None

        student, _ = jax.lax.scan(one, student, steps)
        return student, {k: accuracies(student, v) for k, v in parts.items()}

      return over(of_trial)(students)

    return over(of_seed)(students, seeds)

  # To start is cheaper than to compile how.
  return Program(jax.vmap(start_seed), jax.jit(advance))
