"""Trains peers that teach each other from a few labels.

K peers by mutual learning, codistillation, ONE, OKDDip and KDCL, against K
independent networks and their ensemble. Peer j of seed i has the same initial
weights and batches under every method, so that a gain is a paired difference.
The disagreement of the peers is reported: peers that answer alike have
collapsed into one network, whose ensemble is worth nothing. Independent
networks with all labels are the upper bound.

  python -m experiments.collaborate
  python -m experiments.collaborate --networks mlp convnet \
    --methods mutual codistillation kdcl_min_logit --workdir runs/two_kinds
  python -m experiments.collaborate --dataset fashion_mnist \
    --data_dir ~/tensorflow_datasets --examples_per_class 200 \
    --workdir runs/collaborate_fashion
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments.collaborate import methods
from experiments.collaborate.data import Data, load_data
from experiments.collaborate.report import write
from experiments.collaborate.training import train
from experiments.frame import commands, folders, jobs, networks
from kdjax import training


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways in which peers teach each other."""

  workdir: str = "runs/collaborate"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # labeled images of each class, drawn by the seed
  examples_per_class: commands.Count = 8
  # the methods that are compared with independent networks; help: print them.
  # A run may be resumed with other methods
  methods: tuple[str, ...] = methods.METHODS
  peers: int = 4  # the number of networks that are trained together
  # names of kdjax.nets.create; with several of them peers differ, in turn
  networks: tuple[str, ...] = ("mlp",)
  hidden: commands.Units = (64,)  # units of the hidden layers of an mlp
  seeds: commands.Count = 5  # repetitions of all training
  steps: int = 1000  # updates of each network
  evaluate_every: int = 50  # steps from one evaluation to the next
  batch_size: commands.Count = 32  # the number of examples in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's learning rate
  # steps after which codistillation's stale peers are renewed; evaluate_every
  # is a multiple of them
  stale_steps: int = 50
  burn_in: float = 0.2  # share of the steps before codistillation begins


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_multiple(config, "evaluate_every", "stale_steps")
  commands.expect_some(config, "methods", methods.METHODS)
  commands.expect(config, "peers", config.peers >= 2, "2 or more")
  met = 0 < len(config.networks) <= config.peers
  expected = f"one or more names, up to {config.peers}, the number of peers"
  commands.expect(config, "networks", met, expected)
  commands.expect(config, "burn_in", 0 <= config.burn_in < 1, "0 up to below 1")
  met = "okddip" not in config.methods or config.peers >= 3
  commands.expect(config, "peers", met, "3 or more for okddip: one is led")


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data
  peers: tuple[training.Network, ...]


def make_network(name: str, config: Config, data: Data) -> training.Network:
  """The network of a name."""
  options: dict[str, Any] = {"hidden": config.hidden} if name == "mlp" else {}
  return networks.make_network(
    name, data.train["image"], data.classes, **options
  )


def prepare(config: Config) -> Job:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = load_data(config)
  made = {name: make_network(name, config, data) for name in config.networks}
  peers = tuple(made[name] for name in methods.networks_of(config))
  for name in config.methods:
    learner = methods.make_learner(name, config, peers, data.few.shape[1])
    # Only shapes: a method may not suit the networks.
    jax.eval_shape(learner.init, jax.random.key(0), data.spec())
  return Job(*jobs.open_run(config, data, free=("methods",)), peers)


def execute(job: Job) -> dict[str, dict[str, np.ndarray]]:
  """Trains and writes the report; returns the scores of each method."""
  rows = train(job)
  write(job, rows)
  return rows


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
