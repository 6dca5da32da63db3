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

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.distill.report import write
from experiments.distill.scores import cost
from experiments.distill.scores import examine
from experiments.frame import commands
from experiments.frame import folders
from experiments.frame import networks
from experiments.frame import rounds
from experiments.frame import statistics
from kdjax import data as kdata
from kdjax import distillation
from kdjax import training
from kdjax.ops import cross_entropy


@dataclass(frozen=True)
class Config(commands.Flags):
  """Trains a teacher, students from scratch and distilled ones; compares them.

  Attributes:
    dataset: digits, or the name of a data set that tfds has prepared.
    data_dir: the folder of the data sets that tfds has prepared.
    examples_per_class: images of each class that a student sees, drawn by its
      seed; 0: all images that the teacher saw.
    missing_digit: a class of which the students see no image (Hinton's test).
    validation_fraction: share of the training images that chooses the cell.
    teacher: a name of kdjax.nets.create.
    student: a name of kdjax.nets.create.
    student_hidden: units of the hidden layers if the student is an mlp.
    method: the divergence in the student's loss, alpha * T^2 * divergence +
      (1 - alpha) * cross-entropy.
    temperatures: the temperatures T of the grid (logit_mse has none).
    alphas: the weights of the teacher in the grid; 0, from scratch, is added.
    seeds: the number of students in each cell of the grid.
    teacher_steps: updates of the teacher.
    student_steps: updates of each student, for any number of examples.
    evaluate_every: steps from one evaluation and checkpoint to the next.
    batch_size: the number of examples in a batch.
    teacher_learning_rate: AdamW's initial learning rate for the teacher; it
      decays by a cosine.
    student_learning_rate: AdamW's initial learning rate for the students; it
      decays by a cosine.
    weight_decay: AdamW's weight decay.
    shift: training images are shifted by up to so many pixels.
    devices: the number of devices; the teacher's batches and the students'
      seeds are divided among them. A CPU is divided into so many devices.
    parallel: the transformation that divides a program among the devices.
  """

  workdir: str = "runs/distill"
  dataset: str = "digits"
  data_dir: commands.DataDir = None
  examples_per_class: int = 8
  missing_digit: int | None = None
  validation_fraction: float = 0.25
  teacher: str = "mlp"
  student: str = "mlp"
  student_hidden: tuple[int, ...] = (32,)
  method: Literal[
    "kd",
    "reverse_kl",
    "symmetric_kl",
    "generalized_jsd",
    "skew_kl",
    "skew_reverse_kl",
    "total_variation",
    "logit_mse",
  ] = "kd"
  temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
  alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
  seeds: int = 16
  teacher_steps: int = 600
  student_steps: int = 1000
  evaluate_every: int = 25
  batch_size: int = 40
  teacher_learning_rate: float = 3e-3
  student_learning_rate: float = 1e-2
  weight_decay: float = 0.1
  shift: int = 0
  devices: int = 1
  parallel: Literal["jit", "pmap", "shard_map"] = "jit"


def check(config: Config) -> None:
  """Raises ValueError for flags that do not go together."""
  for name, unit in (
    ("teacher_steps", "evaluate_every"),
    ("student_steps", "evaluate_every"),
    ("batch_size", "devices"),
    ("seeds", "devices"),
  ):
    commands.expect_multiple(config, name, unit)
  commands.expect_positive(
    config,
    "temperatures",
    "alphas",
    "teacher_learning_rate",
    "student_learning_rate",
  )
  expected = "numbers up to 1; 0, from scratch, is always there"
  commands.expect(config, "alphas", max(config.alphas) <= 1, expected)
  met = all(units > 0 for units in config.student_hidden)
  commands.expect(config, "student_hidden", met, "numbers above 0")
  commands.expect_at_least_zero(
    config, "examples_per_class", "shift", "weight_decay"
  )
  commands.expect_share(config, "validation_fraction")


def with_labels(divergence: Callable[..., Any]) -> Callable[..., Any]:
  """Mixes a divergence with the labels, scaled and weighted as `kd_loss` is."""
  softened = "temperature" in inspect.signature(divergence).parameters

  def loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    options = {"temperature": temperature} if softened else {}
    soft = divergence(student_logits, teacher_logits, **options)
    soft *= temperature**2
    hard = cross_entropy(student_logits, labels)
    return alpha * soft + (1 - alpha) * hard

  return loss


METHODS = {
  "kd": distillation.kd_loss,
  "reverse_kl": with_labels(distillation.reverse_kl_loss),
  "symmetric_kl": with_labels(distillation.symmetric_kl_loss),
  "generalized_jsd": with_labels(distillation.generalized_jsd_loss),
  "skew_kl": with_labels(distillation.skew_kl_loss),
  "skew_reverse_kl": with_labels(distillation.skew_reverse_kl_loss),
  "total_variation": with_labels(distillation.total_variation_loss),
  "logit_mse": with_labels(distillation.logit_mse_loss),
}


class Data(NamedTuple):
  """Images and labels on the device, and what each seed sees of them."""

  train: dict[str, Any]
  validation: dict[str, Any]
  test: dict[str, Any]
  transfer: np.ndarray  # [seeds, examples], places in train
  classes: int

  @property
  def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of one image."""
    image = self.train["image"]
    return {
      "image": jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype),
      "label": jax.ShapeDtypeStruct((1,), np.int32),
      "mask": jax.ShapeDtypeStruct((1,), np.bool_),
    }


def load_data(config: Config) -> Data:
  """Reads the data; images stay uint8 and the networks normalize them."""
  source = kdata.load(config.dataset, "train", data_dir=config.data_dir)
  train, validation = map(
    kdata.as_arrays, kdata.split(source, config.validation_fraction)
  )
  test = kdata.as_arrays(
    kdata.load(config.dataset, "test", data_dir=config.data_dir)
  )
  labels = train["label"]
  classes = int(labels.max()) + 1
  met = config.missing_digit in (None, *range(classes))
  expected = f"a class of {config.dataset}, 0 to {classes - 1}"
  commands.expect(config, "missing_digit", met, expected)
  # A source of places instead of images, to draw from as from any other.
  places = kdata.ArraySource(
    np.arange(len(labels)).reshape(-1, 1, 1, 1), labels
  )
  if config.missing_digit is not None:
    places = kdata.without_classes(places, [config.missing_digit])

  def draw(seed: int) -> np.ndarray:
    few = places
    if config.examples_per_class:
      few = kdata.few_per_class(places, config.examples_per_class, seed=seed)
    return kdata.as_arrays(few)["image"].ravel()

  transfer = np.stack([draw(config.seed + i) for i in range(config.seeds)])
  train, validation, test = jax.device_put((train, validation, test))
  return Data(train, validation, test, transfer, classes)


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  devices: tuple[jax.Device, ...]
  data: Data
  teacher: training.Network
  student: training.Network


def network(name: str, data: Data, **options: Any) -> training.Network:
  """Returns a network that takes uint8 images."""
  images = data.train["image"]
  mean, std = kdata.channel_statistics(np.asarray(images))
  return networks.make_network(
    name,
    input_shape=images.shape[1:],
    classes=data.classes,
    mean=mean,
    std=std,
    **options,
  )


def make_round(config: Config, learner: training.Learner, optimizer: Any):
  """The steps and the evaluation of a round, alike for all networks."""
  loss_fn = rounds.shift_examples(learner.loss_fn, config.shift)
  step = training.make_train_step(loss_fn, optimizer)
  return rounds.make_round(step, learner.evaluate)


def adamw(learning_rate: float, steps: int, weight_decay: float):
  """AdamW whose learning rate decays to zero by a cosine."""
  schedule = optax.cosine_decay_schedule(learning_rate, steps)
  return optax.adamw(schedule, weight_decay=weight_decay)


def train_teacher(job: Job):
  """Trains the teacher, each batch divided among the devices."""
  config, steps = job.config, job.config.teacher_steps
  optimizer = adamw(config.teacher_learning_rate, steps, config.weight_decay)
  learner = training.distill(job.teacher, None, cross_entropy, optimizer)
  examples = len(job.data.train["label"])

  @jax.jit
  def start(key):
    init_key, plan_key, key = jax.random.split(key, 3)
    state = learner.init(init_key, job.data.batch_spec)
    plan = rounds.plan_steps(plan_key, examples, config.batch_size, steps)
    return state, key, plan

  advance = training.parallelize(
    make_round(config, learner, optimizer),
    config.parallel,
    split={"plan": 1, "validation_plan": 1},
    devices=job.devices,
  )

  def describe(seen):
    row = {"loss": seen["loss"], "validation_accuracy": seen["accuracy"]}
    return row, f"validation accuracy {seen['accuracy']:.1%}"

  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  state, seen = rounds.train("teacher", job, advance, {}, start(key), describe)
  return training.Model(job.teacher.forward, state.student), seen["accuracy"]


def train_students(job: Job, teacher: training.Model, cells: np.ndarray):
  """Trains all cells and seeds as one program, the seeds over the devices."""
  config, steps = job.config, job.config.student_steps
  optimizer = adamw(config.student_learning_rate, steps, config.weight_decay)
  temperatures, alphas = cells.T
  learner = training.distill(
    job.student,
    teacher,
    METHODS[config.method],
    optimizer,
    temperature=1.0,
    alpha=0.0,
  )

  def init_student(key, temperature, alpha):
    return learner.init(
      key, job.data.batch_spec, temperature=temperature, alpha=alpha
    )

  # The cells of a seed share the count of steps, and so the keys, the shifts
  # and the teacher's outputs: these are computed once for all cells.
  over_cells: Any = training.TrainState(None, 0, 0, 0, 0)  # pyrefly: ignore

  @jax.jit
  @jax.vmap
  def start(seed, transfer):
    key = jax.random.fold_in(jax.random.key(config.seed), 1 + seed)
    init_key, plan_key, key = jax.random.split(key, 3)
    init_cells = jax.vmap(init_student, (None, 0, 0), over_cells)
    state = init_cells(init_key, temperatures, alphas)
    plan = rounds.plan_steps(plan_key, len(transfer), config.batch_size, steps)
    return state, key, plan | {"index": transfer[plan["index"]]}

  # The hyper-parameters of a student are in its state, not here.
  advance = make_round(config, learner, optimizer)
  advance = jax.vmap(advance, (over_cells, *[None] * 5), (over_cells, 0))
  advance = jax.vmap(advance, (0, None, None, 0, 0, None))
  advance = training.parallelize(
    advance,
    config.parallel,
    split={"state": 0, "plan": 0, "key": 0},
    join=0,
    devices=job.devices,
  )

  def describe(seen):
    accuracy = seen["accuracy"].mean(0)
    row = {
      "temperature": temperatures,
      "alpha": alphas,
      "loss": seen["loss"].mean(0),
      "validation_accuracy": accuracy,
      "validation_accuracy_std": seen["accuracy"].std(0),
      "gain_over_scratch": accuracy - accuracy[0],
      "agreement": seen["agreement"].mean(0),
      "kl": seen["kl"].mean(0),
    }
    scratch, best = accuracy[0], accuracy[1:].max()
    return row, f"validation accuracy: scratch {scratch:.1%}, best {best:.1%}"

  state, seen = rounds.train(
    "students",
    job,
    advance,
    learner.frozen,
    start(jnp.arange(config.seeds), jnp.asarray(job.data.transfer)),
    describe,
  )
  return training.Model(job.student.forward, state.student), seen["accuracy"]


def prepare(config: Config) -> Job:
  """Does all steps that a wrong flag makes fail; makes the run folder last."""
  check(config)
  devices, data = commands.use_devices(config.devices), load_data(config)
  options = {"hidden": config.student_hidden} if config.student == "mlp" else {}
  teacher = network(config.teacher, data)
  student = network(config.student, data, **options)
  console, run = commands.console(), folders.RunFolder(config)
  return Job(config, run, console, devices, data, teacher, student)


def execute(job: Job) -> dict[str, Any]:
  """Trains, examines and writes the report; returns what the report says."""
  config = job.config
  softened = config.method != "logit_mse"
  temperatures = config.temperatures if softened else (1.0,)
  grid = list(itertools.product(temperatures, config.alphas))
  cells = np.array([(1, 0), *grid], np.float32)  # the first is from scratch

  teacher, teacher_accuracy = train_teacher(job)
  students, accuracy = train_students(job, teacher, cells)
  best = 1 + int(accuracy[-1, :, 1:].mean(0).argmax())
  chosen = jax.tree.map(
    lambda x: np.asarray(x)[:, [0, best]], students.variables
  )
  students = training.Model(students.forward, chosen)
  student = training.Model(
    students.forward, jax.tree.map(lambda x: jnp.asarray(x[0, 0]), chosen)
  )
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


def main(config: Config) -> dict[str, Any]:
  """Runs the experiment; raises an error where the command line prints it."""
  return execute(prepare(config))


if __name__ == "__main__":
  commands.launch(Config, prepare, execute)
