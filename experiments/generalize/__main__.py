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

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.frame import commands, jobs, tables
from experiments.generalize.data import DOMAINS, load_data
from experiments.generalize.methods import METHODS
from experiments.generalize.networks import make_network
from experiments.generalize.report import Results, choose, write
from experiments.generalize.training import read, train


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to generalize to a domain that was never seen."""

  workdir: str = "runs/generalize"
  task: Literal["colored", "rotated"] = "colored"  # Colored or Rotated MNIST
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the side to which images are reduced by leaving out pixels; 0 keeps all
  # pixels
  image_size: commands.Natural = 0
  examples: commands.Natural = 0  # the largest number of images; 0 for all
  network: Literal["mlp", "cnn"] = "mlp"  # mlp, or cnn, that of DomainBed
  hidden: commands.Counts = (64,)  # units of the hidden layers of the mlp
  channels: commands.Count = 64  # channels of the cnn's first convolution
  # the methods that are compared; help: print them. erm, the baseline, is
  # always one of them
  methods: tuple[str, ...] = METHODS
  # the domains that are held out, by number
  targets: Annotated[
    tuple[int, ...] | None, commands.optional("each in turn", "INT ...")
  ] = None
  # whether to use the rule "leave one domain out", which needs a student for
  # every pair of domains held out
  leave_one_out: bool = True
  seeds: commands.Count = 5  # repetitions of all training
  # hyper-parameter sets of a method; the first: defaults
  trials: commands.Count = 3
  steps: int = 200  # updates of each student
  evaluate_every: int = 50  # steps from one evaluation to the next
  # the most images of a part of a domain; 0: all
  evaluate_on: commands.Natural = 2000
  batch_size: commands.Count = 32  # images of each domain in a batch
  # the range from which further trials draw
  learning_rates: tuple[float, float] = (3e-4, 3e-3)


def check(config: Any) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "methods", METHODS)
  count, targets = len(DOMAINS[config.task]), config.targets
  met = 0 < len(set(targets)) == len(targets)
  met = met and set(targets) <= set(range(count))
  expected = f"one or more different numbers below {count}"
  commands.expect(config, "targets", met, expected)
  low, high = config.learning_rates
  commands.expect(config, "learning_rates", 0 < low <= high, "0 < low <= high")


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  if config.targets is None:
    targets = tuple(range(len(DOMAINS[config.task])))
    config = dataclasses.replace(config, targets=targets)
  check(config)
  methods = tuple(dict.fromkeys(("erm", *config.methods)))
  config = dataclasses.replace(config, methods=methods)
  data = load_data(config)
  make_network(config, data.shape, data.classes)
  return jobs.open_run(config, data)


def execute(job: jobs.Setup) -> Results:
  """Trains, chooses and writes the report; returns the results."""
  train(job)
  results = choose(job, read(job))
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, lambda: tables.describe(METHODS))
