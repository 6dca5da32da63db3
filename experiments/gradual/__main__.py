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
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from experiments.frame import commands, jobs
from experiments.gradual.data import load_data, turn
from experiments.gradual.network import create
from experiments.gradual.report import write
from experiments.gradual.training import make_scores, train

Size = Annotated[int | None, commands.optional("by the data set")]
# Sizes for flags that are not given: of Kumar et al., and for digits, a set of
# 1,198 training images.
SIZES = {
  "source_examples": (5000, 400),
  "source_epochs": (10, 60),
  "blocks": (21, 8),
  "block_examples": (2000, 75),
  "epochs": (10, 20),
  "validation_examples": (2000, 198),
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
  source_examples: Size = None  # labeled source images; 5000, of digits 400
  source_epochs: Size = None  # passes over them; 10, of digits 60
  blocks: Size = None  # domains between source and target; 21, of digits 8
  block_examples: Size = None  # images of each of them; 2000, of digits 75
  epochs: Size = None  # passes over each of them; 10, of digits 20
  # target images that only choose where to stop; 2000, of digits 198
  validation_examples: Size = None
  # the methods that are compared with source_only and target_only; help: print
  # them. A run may be resumed with other methods
  methods: tuple[str, ...] = tuple(METHODS)
  drop: float = 0.1  # share of the least confident labels that is dropped
  channels: commands.Count = 32  # of each convolution of the network
  seeds: commands.Count = 5  # the number of networks of each method
  batch_size: commands.Count = 32  # the number of examples in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's learning rate


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_positive(config, *SIZES)
  commands.expect_some(config, "methods", METHODS)
  commands.expect(config, "drop", 0 <= config.drop < 1, "0 or more, below 1")
  met = config.spread >= 0 and 2 * config.spread < config.degrees <= 180
  commands.expect(config, "degrees", met, "more than twice spread, up to 180")


class Row(NamedTuple):
  """The results of one method: accuracies on target test images `[seeds]`."""

  accuracy: np.ndarray  # after the last round
  # After the round that target validation images choose without their labels,
  # and with them; after the last round if a method has no choice.
  information: np.ndarray
  oracle: np.ndarray
  seen: dict[str, np.ndarray]  # of validation images, `[1 + rounds, seeds]`
  by_angle: np.ndarray  # after the last round, `[angles, seeds]`


def examine(job: jobs.Job, trained: dict[str, Any]) -> dict[str, Row]:
  """Looks at test images, for the first time."""
  config, score = job.config, make_scores(job.forward)
  few = jax.tree.map(lambda x: x[:1000], job.data.plain_test)
  turned = [
    turn(few, np.full(len(few["label"]), angle))
    for angle in np.linspace(0, config.degrees, 13)
  ]

  def accuracy(variables, part=job.data.test):
    return np.asarray(score(variables, part)["accuracy"])

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
  missing: dict[str, Any] = {
    name: sizes[config.dataset == "digits"]
    for name, sizes in SIZES.items()
    if getattr(config, name) is None
  }
  config = dataclasses.replace(config, **missing)
  check(config)
  data = load_data(config)
  # A method's stage needs no other's but source-only.
  return jobs.open_run(config, data, free=("methods",))


def execute(setup: jobs.Setup) -> dict[str, Row]:
  """Trains, examines and writes the report; returns a row a method."""
  images, labels = setup.data.source["image"], setup.data.source["label"]
  classes, channels = int(labels.max()) + 1, setup.config.channels
  job = jobs.start(setup, create(classes, images.shape[1:], channels))
  rows = examine(job, train(job))
  write(job, rows)
  return rows


if __name__ == "__main__":
  kinds = {name: ("self-training", text) for name, text in METHODS.items()}
  commands.launch(Config, prepare, execute, lambda: kinds)
