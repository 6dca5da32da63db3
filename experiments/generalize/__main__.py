"""Trains on some domains and tests on one that was never seen.

Colored and Rotated MNIST by DomainBed's protocol: every domain is the target
once; of each domain a fifth of the images trains nobody; the hyper-parameters
of a method are its defaults or drawn at random; and the student that is
reported is chosen by each of three rules, of which the last, the oracle, sees
labels of the target. Seed i has the same initial weights, batches and learning
rates under every method, so that a gain over empirical risk minimisation (ERM)
is a paired difference. Target-only students train on the target's own images.

  python -m experiments.generalize
  python -m experiments.generalize --task rotated --workdir runs/rotated
  python -m experiments.generalize --dataset mnist --image_size 14 \
    --data_dir ~/tensorflow_datasets --workdir runs/mnist

DomainBed's own network, sizes and ranges, for an accelerator:

  python -m experiments.generalize --dataset mnist --network cnn \
    --data_dir ~/tensorflow_datasets --steps 5000 --evaluate_every 100 \
    --evaluate_on 0 --batch_size 64 --trials 20 --seeds 3 \
    --learning_rates 3.16e-5 3.16e-3 --workdir runs/domainbed
"""

import itertools
import json
import pathlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.compare.job import write_json
from experiments.frame import commands
from experiments.frame import progress
from experiments.generalize.data import DOMAINS
from experiments.generalize.data import Data
from experiments.generalize.data import load_data
from experiments.generalize.data import split_for_target
from experiments.generalize.methods import METHODS
from experiments.generalize.methods import ROWS
from experiments.generalize.methods import TARGET_ONLY
from experiments.generalize.networks import make_network
from experiments.generalize.report import Results
from experiments.generalize.report import choose
from experiments.generalize.report import write
from experiments.generalize.training import make_program
from experiments.generalize.training import make_seeds


@dataclass(frozen=True)
class Config:
  """Compares ways to generalize to a domain that was never seen.

  Attributes:
    workdir: the run folder, made if missing.
    resume: leave out the cells that the run folder has.
    task: colored or rotated; the domains of Colored or Rotated MNIST.
    dataset: digits, or the name of a set that tfds has prepared.
    data_dir: where tfds keeps its prepared sets.
    image_size: every so many pixels are left out that this is the images'
      side; 0 keeps all.
    examples: at most so many images; 0 for all.
    network: mlp, or cnn, that of DomainBed.
    hidden: units of the hidden layers of the mlp.
    channels: of the first convolution of the cnn, 64 in DomainBed.
    methods: which are compared; erm, the yardstick, is always one of them.
    targets: the domains that are held out, by number; none for each in turn.
    leave_one_out: whether to pay for the second rule, which needs a student
      for every pair of domains held out.
    seeds: repetitions of everything.
    trials: hyper-parameters of each method; the first are the defaults.
    steps: updates of each student.
    evaluate_every: steps from one evaluation to the next.
    evaluate_on: images of each part of a domain to evaluate on; 0 for all.
    batch_size: images of each domain in a batch.
    learning_rates: those of further trials are drawn between these two.
    seed: of everything random.
  """

  workdir: str = "runs/generalize"
  resume: bool = False
  task: Literal["colored", "rotated"] = "colored"
  dataset: str = "digits"
  data_dir: str | None = None
  image_size: int = 0
  examples: int = 0
  network: Literal["mlp", "cnn"] = "mlp"
  hidden: tuple[int, ...] = (64,)
  channels: int = 64
  methods: tuple[str, ...] = tuple(METHODS)
  targets: tuple[int, ...] = ()
  leave_one_out: bool = True
  seeds: int = 5
  trials: int = 3
  steps: int = 200
  evaluate_every: int = 50
  evaluate_on: int = 2000
  batch_size: int = 32
  learning_rates: tuple[float, float] = (3e-4, 3e-3)
  seed: int = 0


def check(config: Config) -> None:
  """Raises ValueError for flags that will not do."""
  commands.expect_positive(
    config, "seeds", "trials", "batch_size", "channels", "hidden"
  )
  commands.expect_multiple(config, "steps", "evaluate_every")
  for name in ("image_size", "examples", "evaluate_on"):
    commands.expect(config, name, getattr(config, name) >= 0, "0 or more")
  met = set(config.methods) <= set(METHODS)
  met = met and len(set(config.methods)) == len(config.methods)
  commands.expect(
    config, "methods", met, f"different ones of {', '.join(METHODS)}"
  )
  count = len(DOMAINS[config.task])
  met = set(config.targets) <= set(range(count))
  met = met and len(set(config.targets)) == len(config.targets)
  commands.expect(config, "targets", met, f"different numbers below {count}")
  low, high = config.learning_rates
  commands.expect(config, "learning_rates", 0 < low <= high, "0 < low <= high")


class Cell(NamedTuple):
  """A method and the domains that its students do not see.

  Those of target-only see nothing else.
  """

  method: str
  held_out: tuple[int, ...]

  def training(self, domains: int) -> tuple[int, ...]:
    """The domains that its students see."""
    if self.method == TARGET_ONLY:
      return self.held_out
    return tuple(i for i in range(domains) if i not in self.held_out)

  def file(self, folder: pathlib.Path) -> pathlib.Path:
    """Where its accuracies are."""
    name = "_".join(map(str, self.held_out))
    return folder / "cells" / self.method / f"{name}.json"


class Job(NamedTuple):
  """What every part of the run needs."""

  config: Config
  run: commands.RunFolder
  console: Console
  data: Data

  @property
  def methods(self) -> tuple[str, ...]:
    """All methods, ERM first."""
    return tuple(dict.fromkeys(("erm", *self.config.methods)))

  @property
  def targets(self) -> tuple[int, ...]:
    """The domains that are held out."""
    return self.config.targets or tuple(range(len(DOMAINS[self.config.task])))


def plan(job: Job) -> list[Cell]:
  """All cells: each target held out alone and, for the rule, with another."""
  sets = [(target,) for target in job.targets]
  if job.config.leave_one_out:
    pairs = itertools.combinations(range(len(DOMAINS[job.config.task])), 2)
    sets += [pair for pair in pairs if set(pair) & set(job.targets)]
  cells = [Cell(*pair) for pair in itertools.product(job.methods, sets)]
  return cells + [Cell(TARGET_ONLY, (target,)) for target in job.targets]


def train(job: Job) -> None:
  """Trains the cells that the run folder has not, and saves each."""
  config, data = job.config, job.data
  cells, folder = plan(job), job.run.path
  left = [cell for cell in cells if not cell.file(folder).exists()]
  done = len(cells) - len(left)
  if done:
    job.console.print(f"resuming: {done} of {len(cells)} cells are done")
  if not left:
    return
  seeds = jax.jit(lambda data: make_seeds(config, data))(data)
  own_seeds = seeds._replace(split=split_for_target(seeds.split))
  programs: dict[Any, Any] = {}
  total = len(cells) * config.steps
  with progress.progress(
    job.console, "cells", total, start=done * config.steps
  ) as update:
    for number, cell in enumerate(left, done):
      training = jnp.array(cell.training(len(data.label)))
      held_out = jnp.array(cell.held_out)
      used = own_seeds if cell.method == TARGET_ONLY else seeds
      kind = cell.method, len(training)
      if kind not in programs:
        program = make_program(cell.method, config, data, len(training))
        programs[kind] = program, program.start(used)
      program, students = programs[kind]
      trials, history = jax.device_get(students.trial), []
      for first in range(0, config.steps, config.evaluate_every):
        students, seen = program.advance(
          students, used, data, training, held_out, jnp.int32(first)
        )
        history.append(jax.device_get(seen))
        update(
          number * config.steps + first + config.evaluate_every,
          describe(job, cell, history[-1]),
        )
      write_json(
        cell.file(folder),
        {k: [seen[k].tolist() for seen in history] for k in history[0]}
        | {k: values.tolist() for k, values in trials.items()},
      )


def describe(job: Job, cell: Cell, seen: dict[str, np.ndarray]) -> str:
  """What is trained, and its mean accuracy on domains that it sees."""
  names = " and ".join(DOMAINS[job.config.task][i] for i in cell.held_out)
  word = "on" if cell.method == TARGET_ONLY else "without"
  training = list(cell.training(len(job.data.label)))
  accuracy = seen["outside"][..., training].mean()
  return f"{ROWS[cell.method].title} {word} {names}, validation {accuracy:.1%}"


def read(job: Job) -> dict[tuple[str, tuple[int, ...]], Any]:
  """The contents of all cells."""
  return {
    tuple(cell): json.loads(cell.file(job.run.path).read_text())
    for cell in plan(job)
  }


def prepare(config: Config) -> Job:
  """Does all that fails if the user is mistaken; makes the run folder last."""
  check(config)
  data = load_data(config)
  network = make_network(config, data.shape, data.classes)
  jax.eval_shape(network.init, jax.random.key(0))
  return Job(config, commands.RunFolder(config), commands.console(), data)


def execute(job: Job) -> Results:
  """Trains, chooses and writes the report; returns the results."""
  train(job)
  results = choose(job, read(job))
  write(job, results)
  return results


def main(config: Config) -> Results:
  """Runs the experiment; raises where the command line would print a line."""
  return execute(prepare(config))


if __name__ == "__main__":
  execute(commands.set_up(prepare, commands.parse(Config)))
