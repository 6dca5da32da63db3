"""Distills from one modality into another.

Four tasks. Gaussians repeat the modality focusing hypothesis of Xue et al.: the
gain of KD grows with the information that both modalities share, and a better
teacher need not make a better student. Then real pairs: a teacher of left
halves of digits and students of right halves; a teacher of images and students
of the sound of the digit's name; and a small CLIP that learns from a larger one
to match digits and their captions. Students see few pairs with labels; from
scratch and all pairs are the bounds.

  python -m experiments.cross_modal
  python -m experiments.cross_modal --tasks halves spoken --dataset mnist \
    --data_dir ~/tensorflow_datasets --workdir runs/cross_modal_mnist
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from experiments.cross_modal import data as pair_data
from experiments.cross_modal import gaussians, methods, sounds
from experiments.cross_modal import training as pair_training
from experiments.cross_modal.report import write
from experiments.cross_modal.sounds import Kind
from experiments.frame import commands, folders, jobs


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to distill from one modality into another."""

  workdir: str = "runs/cross_modal"
  # gaussians, halves, spoken, captions. A run may be resumed with other tasks
  tasks: tuple[str, ...] = tuple(methods.TASKS)
  dataset: str = "digits"  # digits, or digits that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the methods that are compared with training from scratch; help: print them.
  # A run may be resumed with other methods
  methods: tuple[str, ...] = methods.METHODS
  # labeled pairs of each class that a student sees, drawn by the seed
  examples_per_class: commands.Count = 10
  sounds: Annotated[
    Kind,
    tyro.conf.arg(
      help="what speaks: espeak (the program espeak-ng), tones (vowels of two "
      "formants), or auto for espeak where it is installed"
    ),
  ] = "auto"
  hidden: commands.Units = (32,)  # units of the hidden layers of a student
  teacher_hidden: commands.Units = (256, 256)  # the same of a teacher
  seeds: commands.Count = 5  # students and teachers of each row
  steps: int = 1000  # updates of each network
  evaluate_every: int = 250  # steps from one evaluation to the next
  batch_size: commands.Count = 64  # the number of pairs in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's learning rate
  # runs of each point of the Gaussians; the first ten have the authors' data
  gaussian_runs: commands.Count = 30
  gaussian_steps: commands.Count = 1000  # updates of each of their models


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "tasks", methods.TASKS)
  commands.expect_some(config, "methods", methods.METHODS)


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: dict[str, pair_data.Pairs]


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and makes the pairs; makes the run folder last."""
  check(config)
  tasks = [name for name in config.tasks if name in pair_data.MAKERS]
  if "spoken" in tasks:
    kind = sounds.resolve(config.sounds)
    config = dataclasses.replace(config, sounds=kind)
  pairs = {}
  if tasks:
    images = pair_data.load_images(config)
    pairs = {name: pair_data.MAKERS[name](config, images) for name in tasks}
  return jobs.open_run(config, pairs, free=("methods", "tasks"))


def execute(setup: jobs.Setup) -> dict[str, dict[str, Any]]:
  """Trains and writes the report; returns the rows of each task."""
  job, results = Job(*setup), {}
  for task in job.config.tasks:
    if task == "gaussians":
      results[task] = gaussians.run(job)
      continue
    train = pair_training.train_pairs
    if task == "captions":
      train = pair_training.train_towers
    results[task] = train(job, task, job.data[task])
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
