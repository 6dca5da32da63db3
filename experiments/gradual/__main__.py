"""Follows images that rotate, from a labeled source to an unlabeled target.

Rotated images in the protocol of Kumar et al.: a model trained at angles from 0
to 5 degrees labels images for itself, block by block, while they turn to 60.
Every way of self-training starts from the same source-only model, sees as many
images and takes as many updates; what differs is which images, in which order.

  python -m experiments.gradual
  python -m experiments.gradual --dataset mnist --workdir runs/gradual_mnist \
    --data_dir ~/tensorflow_datasets
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.frame import commands
from experiments.frame import folders
from experiments.gradual.data import Data
from experiments.gradual.data import load_data
from experiments.gradual.data import turn
from experiments.gradual.network import create
from experiments.gradual.report import write
from experiments.gradual.training import Trained
from experiments.gradual.training import make_round
from experiments.gradual.training import make_scores
from experiments.gradual.training import train_on_generated
from experiments.gradual.training import train_on_images
from experiments.gradual.training import train_supervised
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
  """Compares ways of self-training on images that turn step by step.

  Attributes:
    dataset: digits, or the name of a data set that tfds has prepared.
    data_dir: the folder of the data sets that tfds has prepared.
    degrees: the angle at which the target ends.
    spread: source images are turned by 0 to so many degrees, and the target's
      lie as close to its end.
    source_examples: labeled images of the source.
    source_epochs: passes over them.
    blocks: domains between source and target.
    block_examples: images of each of these domains.
    epochs: passes over the images of each of these domains.
    validation_examples: target images that only choose where to stop.
    methods: the methods that are compared with source_only and target_only;
      help: print them. A run may be resumed with other methods.
    drop: the share of each block, the least confident predictions, that is
      dropped.
    channels: channels of each convolution of the network.
    seeds: the number of networks of each method.
    batch_size: the number of examples in a batch.
    learning_rate: Adam's learning rate.
  """

  workdir: str = "runs/gradual"
  dataset: str = "digits"
  data_dir: commands.DataDir = None
  degrees: float = 60.0
  spread: float = 5.0
  source_examples: Annotated[
    int | None, commands.optional("5000, of digits 400")
  ] = None
  source_epochs: Annotated[
    int | None, commands.optional("10, of digits 60")
  ] = None
  blocks: Annotated[int | None, commands.optional("21, of digits 8")] = None
  block_examples: Annotated[
    int | None, commands.optional("2000, of digits 75")
  ] = None
  epochs: Annotated[int | None, commands.optional("10, of digits 20")] = None
  validation_examples: Annotated[
    int | None, commands.optional("2000, of digits 198")
  ] = None
  methods: tuple[str, ...] = tuple(METHODS)
  drop: float = 0.1
  channels: int = 32
  seeds: int = 5
  batch_size: int = 32
  learning_rate: float = 1e-3


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.expect_positive(
    config, *PUBLISHED, "channels", "seeds", "batch_size", "learning_rate"
  )
  commands.expect_some(config, "methods", METHODS)
  commands.expect(config, "drop", 0 <= config.drop < 1, "0 or more, below 1")
  met = config.spread >= 0 and 2 * config.spread < config.degrees <= 180
  commands.expect(config, "degrees", met, "more than twice spread, up to 180")


class Setup(NamedTuple):
  """The inputs of a run before any computation."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data


class Job(NamedTuple):
  """The inputs of every part of the run.

  What a seed decides is the same under every method: the initial variables
  `[seeds]`, and a key for dropout and the order of images `[seeds]`.
  """

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data
  forward: training.Forward
  variables: training.Variables
  key: jax.Array
  advance: Callable[..., Any]
  score: Callable[..., dict[str, jax.Array]]


class Row(NamedTuple):
  """The results of one method in the report."""

  accuracy: np.ndarray  # after the last round, on target test images, `[seeds]`
  # The same after the round that target validation images choose without their
  # labels; of the trained from scratch the same.
  chosen: np.ndarray
  # The same after the round that they choose with their labels.
  oracle: np.ndarray
  # Scores of target validation images, `[1 + rounds, seeds]`.
  seen: dict[str, np.ndarray]
  # Accuracy after the last round on test images turned by each of `angles`,
  # `[angles, seeds]`.
  by_angle: np.ndarray


def angles(config: Config) -> np.ndarray:
  """The angles at which all methods are compared at the end."""
  return np.linspace(0, config.degrees, 13)


def start(setup: Setup) -> Job:
  """Makes the networks of all seeds."""
  config, run, console, data = setup
  network = create(
    int(data.source["label"].max()) + 1,
    data.source["image"].shape[1:],
    config.channels,
  )

  @jax.jit
  @jax.vmap
  def begin(seed):
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    init_key, key = jax.random.split(key)
    return network.init(init_key), key

  variables, key = begin(jnp.arange(config.seeds))
  forward = network.forward
  advance = make_round(forward, config)
  score = make_scores(forward)
  return Job(
    config, run, console, data, forward, variables, key, advance, score
  )


def train(job: Job) -> dict[str, Trained]:
  """Trains source-only and target-only, and from the first all methods."""
  config, data = job.config, job.data
  shape: Any = (config.blocks, config.block_examples)
  ordered = np.arange(np.prod(shape)).reshape(shape)
  generator = np.random.default_rng(config.seed)
  shuffled = generator.permutation(ordered.ravel()).reshape(shape)
  between, target = data.between["image"], data.target["image"]
  blocks = {
    "gradual": (between, ordered, config.drop),
    "undropped": (between, ordered, 0.0),
    "pooled": (between, shuffled, config.drop),
    "target": (target, ordered, config.drop),
  }
  trained = {
    name: train_supervised(name, job, part)
    for name, part in (
      ("source_only", data.source),
      ("target_only", data.turned_source),
    )
  }
  source = trained["source_only"].final
  for method in config.methods:
    if method == "generated":
      result = train_on_generated(method, job, source)
    else:
      result = train_on_images(method, job, source, *blocks[method])
    trained[method] = result
  return trained


def examine(job: Job, trained: dict[str, Any]) -> dict[str, Row]:
  """Looks at test images, for the first time."""
  few = jax.tree.map(lambda x: x[:1000], job.data.plain_test)
  turned = [
    turn(few, np.full(len(few["label"]), angle)) for angle in angles(job.config)
  ]

  def accuracy(variables, part):
    return np.asarray(job.score(variables, part)["accuracy"])

  rows = {}
  for name in ("source_only", *job.config.methods, "target_only"):
    result = trained[name]
    final = accuracy(result.final, job.data.test)
    chosen = {
      rule: accuracy(variables, job.data.test)
      if name in job.config.methods
      else final
      for rule, variables in result.best.items()
    }
    rows[name] = Row(
      final,
      chosen["information"],
      chosen["oracle"],
      result.seen,
      np.stack([accuracy(result.final, part) for part in turned]),
    )
  return rows


def prepare(config: Config) -> Setup:
  """Does all steps that a wrong flag makes fail; makes the run folder last."""
  sizes = REDUCED if config.dataset == "digits" else PUBLISHED
  missing: dict[str, Any] = {
    name: size for name, size in sizes.items() if getattr(config, name) is None
  }
  config = dataclasses.replace(config, **missing)
  check(config)
  data = load_data(config)
  # A method's stage needs no other's but source-only.
  run = folders.RunFolder(config, free=("methods",))
  return Setup(config, run, commands.console(), data)


def execute(setup: Setup) -> dict[str, Row]:
  """Trains, examines and writes the report; returns a row a method."""
  job = start(setup)
  rows = examine(job, train(job))
  write(job, rows)
  return rows


def describe_methods() -> dict[str, tuple[str, str]]:
  """Method -> its area and its images, for `--methods help`."""
  return {name: ("self-training", text) for name, text in METHODS.items()}


def main(config: Config) -> dict[str, Row]:
  """Runs the experiment; raises an error where the command line prints it."""
  return execute(prepare(config))


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, describe_methods)
