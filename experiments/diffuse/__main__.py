"""Distills a diffusion model of digits from many steps to one.

A small network learns to denoise 8x8 digits of a given class. The teacher
samples by DDIM in 64 steps. Progressive distillation halves the steps phase by
phase to one; consistency distillation learns one step at once. Both are held
against the teacher itself in few steps. Quality is the share of samples that a
classifier recognizes as the class that was asked for, and the Frechet distance
of its features to those of real images.

  python -m experiments.diffuse
  python -m experiments.diffuse --steps 1000 --seeds 3 --workdir runs/short
"""

from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console

from experiments.diffuse import methods
from experiments.diffuse.data import Data, load_data
from experiments.diffuse.report import write
from experiments.diffuse.training import Results, train
from experiments.frame import commands, folders, jobs


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to sample from a diffusion model in few steps."""

  workdir: str = "runs/diffuse"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the methods that are compared with the teacher in as few steps; help: print
  # them. A run may be resumed with other methods
  methods: tuple[str, ...] = tuple(methods.METHODS)
  teacher_steps: int = 64  # steps of the teacher's sampling, a power of 2
  width: commands.Count = 128  # units of each of the network's three layers
  seeds: commands.Count = 5  # repetitions of all training
  steps: int = 2000  # updates of the teacher, and of consistency distillation
  phase_steps: int = 500  # updates of a phase of progressive distillation
  evaluate_every: int = 500  # steps from one evaluation to the next
  batch_size: commands.Count = 64  # the number of examples in a batch
  learning_rate: commands.Rate = 2e-3  # Adam's, which falls to 0 over a stage
  samples: commands.Count = 1000  # whose quality is measured, of all classes
  levels: int = 18  # noise levels of consistency distillation
  target_decay: commands.Share = 0.95  # of the average that is its target
  classifier_steps: int = 1000  # updates of the classifier that judges


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  for name in ("steps", "phase_steps", "classifier_steps"):
    commands.expect_multiple(config, name, "evaluate_every")
  commands.expect_some(config, "methods", methods.METHODS)
  count = config.teacher_steps
  met = count >= 2 and not count & (count - 1)
  commands.expect(config, "teacher_steps", met, "a power of 2, 2 or more")
  for name in ("levels", "samples"):
    commands.expect(config, name, getattr(config, name) >= 2, "2 or more")


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data


def prepare(config: Config) -> Job:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = load_data(config)
  return Job(*jobs.open_run(config, data, free=("methods",)))


def execute(job: Job) -> Results:
  """Trains and writes the report; returns the scores of each method."""
  results = train(job)
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
