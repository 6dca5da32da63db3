"""Trains the teacher, and all students of the grid as one program."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame import commands, networks, rounds
from experiments.frame import data as frame_data
from kdjax import data as kdata
from kdjax import distillation, training
from kdjax.ops import cross_entropy

Method = Literal[
  "kd",
  "reverse_kl",
  "symmetric_kl",
  "generalized_jsd",
  "skew_kl",
  "skew_reverse_kl",
  "total_variation",
  "logit_mse",
]


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
  name: with_labels(getattr(distillation, f"{name}_loss"))
  for name in get_args(Method)
} | {"kd": distillation.kd_loss}


def make_networks(config: Any, data: Any) -> list[training.Network]:
  """The teacher and the student."""
  known = data.train["image"], data.classes
  return [
    networks.make_network(config.teacher, *known),
    networks.make_network(config.student, *known, hidden=config.student_hidden),
  ]


def shift_examples(loss_fn: Callable[..., Any], shift: int):
  """Shifts the images of a batch by up to `shift` pixels before a loss."""
  if not shift:
    return loss_fn

  def shifted(params, state, frozen, batch, key, **options):
    # A key for each image, so that its shift is the same on any devices.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    images = jax.vmap(
      lambda key, image: kdata.random_crop(key, image[None], padding=shift)[0]
    )(keys, batch["image"])
    batch = batch | {"image": images}
    return loss_fn(params, state, frozen, batch, key, **options)

  return shifted


def make_round(config: Any, learner: training.Learner, optimizer: Any):
  """The steps of a round and its evaluation, alike for all networks."""
  loss_fn = shift_examples(learner.loss_fn, config.shift)
  epoch = training.scan_epoch(training.make_train_step(loss_fn, optimizer))
  evaluation = training.scan_evaluation(learner.evaluate)

  def advance(
    state, frozen, data, validation_plan, plan, key, *, axis_name=None
  ):
    axis, (train, validation) = {"axis_name": axis_name}, data
    state, moved = epoch(state, frozen, train, plan, key, **axis)
    seen = evaluation(state, frozen, validation, validation_plan, **axis)
    loss = training.mean_metrics(moved, axis=0)["loss"]
    return state, {"loss": loss, **training.mean_metrics(seen)}

  return advance


def inputs_of(job: Any, frozen: Any) -> tuple[Any, ...]:
  """The inputs that all rounds share: teacher, images and validation plan."""
  validation, size = job.data.validation, job.config.batch_size
  plan = training.epoch_plan(len(validation["label"]), size)
  return frozen, (job.data.train, validation), plan


def adamw(learning_rate: float, steps: int, weight_decay: float):
  """AdamW whose learning rate decays to zero by a cosine."""
  schedule = optax.cosine_decay_schedule(learning_rate, steps)
  return optax.adamw(schedule, weight_decay=weight_decay)


def train_teacher(job: Any):
  """Trains the teacher, each batch divided among the devices."""
  config, steps = job.config, job.config.teacher_steps
  network, _ = make_networks(config, job.data)
  optimizer = adamw(config.teacher_learning_rate, steps, config.weight_decay)
  learner = training.distill(network, None, cross_entropy, optimizer)
  spec = frame_data.batch_spec(job.data.train)
  examples = len(job.data.train["label"])

  @jax.jit
  def start(key):
    init_key, plan_key, key = jax.random.split(key, 3)
    plan = rounds.plan_steps(plan_key, examples, config.batch_size, steps)
    return learner.init(init_key, spec), plan, key

  advance = training.parallelize(
    make_round(config, learner, optimizer),
    config.parallel,
    split={"plan": 1, "validation_plan": 1},
    devices=commands.use_devices(config.devices),
  )

  def describe(seen):
    row = {"loss": seen["loss"], "validation_accuracy": seen["accuracy"]}
    return row, f"validation accuracy {seen['accuracy']:.1%}"

  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  state, seen = rounds.train(
    job, "teacher", advance, inputs_of(job, {}), start(key), describe
  )
  return training.Model(network.forward, state.student), seen["accuracy"]


def train_students(job: Any, teacher: training.Model, cells: np.ndarray):
  """Trains all cells and seeds as one program, the seeds over the devices."""
  config, steps = job.config, job.config.student_steps
  _, network = make_networks(config, job.data)
  optimizer = adamw(config.student_learning_rate, steps, config.weight_decay)
  temperatures, alphas = cells.T
  first = {"temperature": 1.0, "alpha": 0.0}  # each student has its own
  learner = training.distill(
    network, teacher, METHODS[config.method], optimizer, **first
  )
  spec = frame_data.batch_spec(job.data.train)

  def init_student(key, temperature, alpha):
    return learner.init(key, spec, temperature=temperature, alpha=alpha)

  # The cells of a seed share the count of steps, and so the keys, the shifts
  # and the teacher's outputs: these are computed once for all cells.
  over_cells: Any = training.TrainState(None, 0, 0, 0)  # pyrefly: ignore

  @jax.jit
  @jax.vmap
  def start(key, transfer):
    init_key, plan_key, key = jax.random.split(key, 3)
    init_cells = jax.vmap(init_student, (None, 0, 0), over_cells)
    state = init_cells(init_key, temperatures, alphas)
    plan = rounds.plan_steps(plan_key, len(transfer), config.batch_size, steps)
    return state, plan | {"index": transfer[plan["index"]]}, key

  # The hyper-parameters of a student are in its state, not here.
  advance = make_round(config, learner, optimizer)
  advance = jax.vmap(advance, (over_cells, *[None] * 5), (over_cells, 0))
  advance = jax.vmap(advance, (0, None, None, None, 0, 0))
  advance = training.parallelize(
    advance,
    config.parallel,
    split={"state": 0, "plan": 0, "key": 0},
    join=0,
    devices=commands.use_devices(config.devices),
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
    job,
    "students",
    advance,
    inputs_of(job, learner.frozen),
    start(rounds.seed_keys(config, first=1), jnp.asarray(job.data.transfer)),
    describe,
  )
  return training.Model(network.forward, state.student), seen["accuracy"]
