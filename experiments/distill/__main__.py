"""Distils a teacher into small students that see few examples.

A teacher is trained on all training images. Then every student of a grid over
temperature and alpha, each with several seeds, is trained in one vmapped
program; alpha = 0 are the students from scratch. Seed i of each cell has the
same initial weights, the same few images in the same order and the same
shifts, so that the gain is a paired difference. The cell is chosen by its mean
validation accuracy, and only the chosen one is tried on the test images.

With few images distillation helps; with all of the teacher's it does not. The
learning rate, weight decay and shift are those at which students from scratch
did best on the validation images.

  python -m experiments.distill
  python -m experiments.distill --examples_per_class 0 --workdir runs/all
  python -m experiments.distill --missing_digit 3 --workdir runs/missing
"""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distill.data import load_data
from experiments.distill.report import write
from experiments.distill.scores import cost, examine
from experiments.distill.training import (
  Method,
  make_networks,
  train_students,
  train_teacher,
)
from experiments.frame import commands, jobs, statistics


@dataclass(frozen=True)
class Config(commands.Flags):
  """Trains a teacher, students from scratch and distilled ones."""

  workdir: str = "runs/distill"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # images of each class that a student sees, drawn by its seed; 0: all images
  # that the teacher saw
  examples_per_class: commands.Natural = 8
  missing_digit: int | None = None  # a class that students never see
  # share of images that choose the cell
  validation_fraction: commands.Share = 0.25
  teacher: str = "mlp"  # a name of kdjax.nets.create
  student: str = "mlp"  # a name of kdjax.nets.create
  student_hidden: commands.Units = (32,)  # units of hidden layers of an mlp
  # the divergence in the student's loss, alpha * T^2 * divergence +
  # (1 - alpha) * cross-entropy
  method: Method = "kd"
  # the temperatures T of the grid (logit_mse has none)
  temperatures: commands.Rates = (1.0, 2.0, 4.0, 8.0, 16.0)
  # the weights of the teacher in the grid; 0, from scratch, is added
  alphas: commands.Rates = (0.25, 0.5, 0.75, 1.0)
  seeds: int = 16  # the number of students in each cell of the grid
  teacher_steps: int = 600  # updates of the teacher
  student_steps: int = 1000  # updates of each student
  evaluate_every: int = 25  # steps from one evaluation to the next
  batch_size: int = 40  # the number of examples in a batch
  teacher_learning_rate: commands.Rate = 3e-3  # AdamW's; decays by a cosine
  student_learning_rate: commands.Rate = 1e-2  # AdamW's; decays by a cosine
  weight_decay: commands.Level = 0.1  # AdamW's weight decay
  shift: commands.Natural = 0  # most pixels by which training images shift
  # the number of devices; the teacher's batches and the students' seeds are
  # divided among them. A CPU is divided into so many devices
  devices: int = 1
  # the transformation that divides a program among the devices
  parallel: Literal["jit", "pmap", "shard_map"] = "jit"


def check(config: Config) -> None:
  """Raises ValueError for flags that do not go together."""
  commands.check(config)
  for name in ("teacher_steps", "student_steps"):
    commands.expect_multiple(config, name, "evaluate_every")
  for name in ("batch_size", "seeds"):
    commands.expect_multiple(config, name, "devices")
  expected = "numbers up to 1; 0, from scratch, is always there"
  commands.expect(config, "alphas", max(config.alphas) <= 1, expected)


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  commands.use_devices(config.devices)
  data = load_data(config)
  make_networks(config, data)
  return jobs.open_run(config, data)


def execute(job: jobs.Setup) -> dict[str, Any]:
  """Trains, examines and writes the report; returns the results."""
  config = job.config
  softened = config.method != "logit_mse"
  temperatures = config.temperatures if softened else (1.0,)
  grid = list(itertools.product(temperatures, config.alphas))
  cells = np.array([(1, 0), *grid], np.float32)  # the first is from scratch

  teacher, teacher_accuracy = train_teacher(job)
  students, accuracy = train_students(job, teacher, cells)
  best = 1 + int(accuracy[-1, :, 1:].mean(0).argmax())
  pairs = jax.tree.map(lambda x: x[:, jnp.array([0, best])], students.variables)
  students = students._replace(variables=pairs)
  one = jax.tree.map(lambda x: x[0, 0], pairs)
  student = students._replace(variables=one)
  scores, curves, logits = examine(job, teacher, students)
  images = job.data.test["image"][: config.batch_size]
  results = {
    "cells": cells,
    "chosen": best,
    "teacher_validation": teacher_accuracy,  # [rounds]
    "student_validation": accuracy,  # [rounds, seeds, cells]
    "scores": scores,
    "gain": statistics.gain_of(
      scores["distilled"]["accuracy"], scores["scratch"]["accuracy"]
    ),
    "curves": curves,
    "costs": [cost(model, images) for model in (teacher, student)],
    "target_logits": logits,
  }
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute)
