"""Trains on some domains and tests on one that was never seen.

Colored and Rotated MNIST by DomainBed's protocol: every domain is the target
once; of each domain a fifth of the images trains nobody; the hyper-parameters
of a method are its defaults or drawn at random; and the student that is
reported is chosen by each of three rules, of which the last, the oracle, sees
labels of the target. Seed i has the same initial weights, batches and learning
rates under every method, so that a gain over empirical risk minimization (ERM)
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
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.frame import cells
from experiments.frame import commands
from experiments.frame import folders
from experiments.generalize.data import DOMAINS
from experiments.generalize.data import Data
from experiments.generalize.data import load_data
from experiments.generalize.data import split_for_target
from experiments.generalize.methods import METHODS
from experiments.generalize.methods import NAMES
from experiments.generalize.methods import TARGET_ONLY
from experiments.generalize.networks import make_network
from experiments.generalize.report import Results
from experiments.generalize.report import choose
from experiments.generalize.report import write
from experiments.generalize.training import make_program
from experiments.generalize.training import make_seeds
from kdjax import objectives


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to generalize to a domain that was never seen.

  Attributes:
    task: the domains: of Colored or of Rotated MNIST.
    dataset: digits, or the name of a data set that tfds has prepared.
    data_dir: the folder of the data sets that tfds has prepared.
    image_size: the side to which images are reduced by leaving out pixels; 0
      keeps all pixels.
    examples: the largest number of images; 0 for all images.
    network: mlp, or cnn, that of DomainBed.
    hidden: units of the hidden layers of the mlp.
    channels: channels of the first convolution of the cnn, 64 in DomainBed.
    methods: the methods that are compared; help: print them. erm, the baseline,
      is always one of them.
    targets: the domains that are held out, by number.
    leave_one_out: whether to use the rule "leave one domain out", which needs
      a student for every pair of domains held out.
    seeds: repetitions of all training.
    trials: hyper-parameter sets of each method; the first are the defaults.
    steps: updates of each student.
    evaluate_every: steps from one evaluation to the next.
    evaluate_on: images of each part of a domain to evaluate on; 0 for all.
    batch_size: images of each domain in a batch.
    learning_rates: the range from which further trials draw.
  """

  workdir: str = "runs/generalize"
  task: Literal["colored", "rotated"] = "colored"
  dataset: str = "digits"
  data_dir: commands.DataDir = None
  image_size: int = 0
  examples: int = 0
  network: Literal["mlp", "cnn"] = "mlp"
  hidden: tuple[int, ...] = (64,)
  channels: int = 64
  methods: tuple[str, ...] = METHODS
  targets: Annotated[
    tuple[int, ...] | None, commands.optional("each in turn", "INT ...")
  ] = None
  leave_one_out: bool = True
  seeds: int = 5
  trials: int = 3
  steps: int = 200
  evaluate_every: int = 50
  evaluate_on: int = 2000
  batch_size: int = 32
  learning_rates: tuple[float, float] = (3e-4, 3e-3)


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.expect_positive(
    config, "seeds", "trials", "batch_size", "channels", "hidden"
  )
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_at_least_zero(config, "image_size", "examples", "evaluate_on")
  commands.expect_some(config, "methods", METHODS)
  count, targets = len(DOMAINS[config.task]), config.targets
  if targets is not None:
    met = set(targets) <= set(range(count))
    met = met and 0 < len(set(targets)) == len(targets)
    expected = f"one or more different numbers below {count}"
    commands.expect(config, "targets", met, expected)
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

  @property
  def path(self) -> tuple[str, str]:
    """The name of its file."""
    return self.method, "_".join(map(str, self.held_out))


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
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
  grid = [Cell(*pair) for pair in itertools.product(job.methods, sets)]
  return grid + [Cell(TARGET_ONLY, (target,)) for target in job.targets]


def train(job: Job) -> None:
  """Trains the cells that the run folder has not, and saves each."""
  config, data = job.config, job.data
  seeds = jax.jit(lambda data: make_seeds(config, data))(data)
  own_seeds = seeds._replace(split=split_for_target(seeds.split))
  programs: dict[Any, Any] = {}
  files = cells.Cells(job.run.path)
  by_path = {cell.path: cell for cell in plan(job)}
  for path, update in files.missing(job.console, by_path, config.steps):
    cell = by_path[path]
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
      update(first + config.evaluate_every, describe(job, cell, history[-1]))
    files.write(
      {k: [seen[k].tolist() for seen in history] for k in history[0]}
      | {k: values.tolist() for k, values in trials.items()},
      *path,
    )


def describe(job: Job, cell: Cell, seen: dict[str, np.ndarray]) -> str:
  """The cell, and its mean accuracy on the domains that it sees."""
  names = " and ".join(DOMAINS[job.config.task][i] for i in cell.held_out)
  word = "on" if cell.method == TARGET_ONLY else "without"
  training = list(cell.training(len(job.data.label)))
  accuracy = seen["outside"][..., training].mean()
  return f"{NAMES[cell.method]} {word} {names}, validation {accuracy:.1%}"


def read(job: Job) -> dict[tuple[str, tuple[int, ...]], Any]:
  """The contents of all cells."""
  files = cells.Cells(job.run.path)
  return {tuple(cell): files.read(*cell.path) for cell in plan(job)}


def prepare(config: Config) -> Job:
  """Does all steps that a wrong flag makes fail; makes the run folder last."""
  check(config)
  data = load_data(config)
  make_network(config, data.shape, data.classes)
  return Job(config, folders.RunFolder(config), commands.console(), data)


def execute(job: Job) -> Results:
  """Trains, chooses and writes the report; returns the results."""
  train(job)
  results = choose(job, read(job))
  write(job, results)
  return results


def describe_methods() -> dict[str, tuple[str, str]]:
  """Method -> its area and what it does, for `--methods help`."""
  rows = {name: objectives.PRESETS[name] for name in METHODS}
  return {name: (row.area, row.summary) for name, row in rows.items()}


def main(config: Config) -> Results:
  """Runs the experiment; raises an error where the command line prints it."""
  return execute(prepare(config))


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, describe_methods)
