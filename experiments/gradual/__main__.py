"""Follows images that rotate, from a labeled source to an unlabeled target.

Rotated images in the protocol of Kumar et al.: a model trained at angles from 0
to 5 degrees labels images for itself, block by block, while they turn to 60.
Every way of self-training starts from the same source-only model, sees as many
images and takes as many updates; the images and their order differ.

  python -m experiments.gradual
  python -m experiments.gradual --dataset mnist --workdir runs/gradual_mnist \
    --data_dir ~/tensorflow_datasets
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments.frame import commands
from experiments.frame import folders
from experiments.frame import jobs
from experiments.frame import rounds
from experiments.gradual.data import Data
from experiments.gradual.data import load_data
from experiments.gradual.data import turn
from experiments.gradual.network import create
from experiments.gradual.report import write
from experiments.gradual.training import make_round
from experiments.gradual.training import make_scores
from experiments.gradual.training import train
from kdjax import training

# Sizes for flags that are not given: of Kumar et al., and for digits, a set of
# 1,198 training images.
PUBLISHED = {
  "source_examples": 5000,
  "source_epochs": 10,
  "blocks": 21,
  "block_examples": 2000,
  "epochs": 10,
  "validation_examples": 2000,
}
REDUCED = {
  "source_examples": 400,
  "source_epochs": 60,
  "blocks": 8,
  "block_examples": 75,
  "epochs": 20,
  "validation_examples": 198,
}

METHODS = {
  "gradual": "the domains between source and target, in their order",
  "undropped": "the same; labels of low confidence are learned too",
  "pooled": "the same images shuffled",
  "target": "the same images turned as the target",
  "generated": "points between embeddings of source and target",
}


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways of self-training on images that turn step by step."""

  workdir: str = "runs/gradual"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  degrees: float = 60.0  # the angle at which the target ends
  # source images are turned by 0 to so many degrees, and the target's lie as
  # close to its end
  spread: float = 5.0
  # labeled images of the source
  source_examples: Annotated[
    int | None, commands.optional("5000, of digits 400")
  ] = None
  # passes over them
  source_epochs: Annotated[
    int | None, commands.optional("10, of digits 60")
  ] = None
  # domains between source and target
  blocks: Annotated[int | None, commands.optional("21, of digits 8")] = None
  # images of each of these domains
  block_examples: Annotated[
    int | None, commands.optional("2000, of digits 75")
  ] = None
  # passes over the images of each of these domains
  epochs: Annotated[int | None, commands.optional("10, of digits 20")] = None
  # target images that only choose where to stop
  validation_examples: Annotated[
    int | None, commands.optional("2000, of digits 198")
  ] = None
  # the methods that are compared with source_only and target_only; help: print
  # them. A run may be resumed with other methods
  methods: tuple[str, ...] = tuple(METHODS)
  drop: float = 0.1  # share of the least confident labels that is dropped
  channels: int = 32  # channels of each convolution of the network
  seeds: int = 5  # the number of networks of each method
  batch_size: int = 32  # the number of examples in a batch
  learning_rate: float = 1e-3  # Adam's learning rate


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.expect_positive(
    config, *PUBLISHED, "channels", "seeds", "batch_size", "learning_rate"
  )
  commands.expect_some(config, "methods", METHODS)
  commands.expect(config, "drop", 0 <= config.drop < 1, "0 or more, below 1")
  met = config.spread >= 0 and 2 * config.spread < config.degrees <= 180
  commands.expect(config, "degrees", met, "more than twice spread, up to 180")


class Job(NamedTuple):
  """The inputs of every part of the run, the same under every method."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data
  forward: training.Forward
  variables: training.Variables  # initial ones, `[seeds, ...]`
  key: jax.Array  # for dropout and the order of images, `[seeds]`
  advance: Callable[..., Any]  # a round of self-training
  score: Callable[..., dict[str, jax.Array]]


class Row(NamedTuple):
  """The results of one method: accuracies on target test images `[seeds]`."""

  accuracy: np.ndarray  # after the last round
  # After the round that target validation images choose without their labels,
  # and with them; after the last round if a method has no choice.
  information: np.ndarray
  oracle: np.ndarray
  seen: dict[str, np.ndarray]  # of validation images, `[1 + rounds, seeds]`
  by_angle: np.ndarray  # after the last round, `[angles, seeds]`


def examine(job: Job, trained: dict[str, Any]) -> dict[str, Row]:
  """Looks at test images, for the first time."""
  config = job.config
  few = jax.tree.map(lambda x: x[:1000], job.data.plain_test)
  turned = [
    turn(few, np.full(len(few["label"]), angle))
    for angle in np.linspace(0, config.degrees, 13)
  ]

  def accuracy(variables, part=job.data.test):
    return np.asarray(job.score(variables, part)["accuracy"])

  rows = {}
  for name in ("source_only", *config.methods, "target_only"):
    final, best, seen = trained[name]
    if name not in config.methods:
      best = dict.fromkeys(best, final)
    rows[name] = Row(
      accuracy(final),
      **{rule: accuracy(variables) for rule, variables in best.items()},
      seen=seen,
      by_angle=np.stack([accuracy(final, part) for part in turned]),
    )
  return rows


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  sizes = REDUCED if config.dataset == "digits" else PUBLISHED
  missing: dict[str, Any] = {
    name: size for name, size in sizes.items() if getattr(config, name) is None
  }
  config = dataclasses.replace(config, **missing)
  check(config)
  data = load_data(config)
  # A method's stage needs no other's but source-only.
  return jobs.open_run(config, data, free=("methods",))


def execute(setup: jobs.Setup) -> dict[str, Row]:
  """Trains, examines and writes the report; returns a row a method."""
  config, data = setup.config, setup.data
  shape, classes = (
    data.source["image"].shape[1:],
    data.source["label"].max() + 1,
  )
  init, forward = create(int(classes), shape, config.channels)

  @jax.jit
  @jax.vmap
  def start(key):
    init_key, key = jax.random.split(key)
    return init(init_key), key

  variables, key = start(rounds.seed_keys(config))
  advance, score = make_round(forward, config), make_scores(forward)
  job = Job(*setup, forward, variables, key, advance, score)
  rows = examine(job, train(job))
  write(job, rows)
  return rows


if __name__ == "__main__":
  kinds = {name: ("self-training", text) for name, text in METHODS.items()}
  commands.launch(Config, prepare, execute, lambda: kinds)
