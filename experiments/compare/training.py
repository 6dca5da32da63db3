"""Trains the students of one cell, all seeds in one program, and tries them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.compare import data as compare_data
from experiments.frame import data as frame_data
from experiments.frame.scores import predict, score
from kdjax import methods as kmethods
from kdjax import metrics, training
from kdjax.ops import cross_entropy, masked_mean


class Teacher(NamedTuple):
  """A frozen network; `seeds_axis` is 0 if each seed has its own."""

  forward: training.Forward
  variables: training.Variables
  seeds_axis: int | None = None


class Lesson(NamedTuple):
  """The training of a network: method, recipe, optimizer and epochs."""

  name: str  # of the network
  network: training.Network
  method: kmethods.Method
  recipe: training.Recipe
  optimizer: Any
  epochs: int
  teacher: Teacher | None = None
  views: tuple[str, ...] = ()


def make_learner(
  lesson: Lesson,
  variables: Any = None,
  guide: Any = None,
  method: kmethods.Method | None = None,
) -> training.Learner:
  """The learner of a lesson, with the views that its method asks for.

  Only `init` needs the variables where the student starts, and the teacher's.
  """
  teacher = lesson.teacher
  learner = training.distill(
    training.Network(lambda key: variables, lesson.network.forward),
    training.Model(teacher.forward, guide) if teacher else None,
    method or lesson.method,
    lesson.optimizer,
    augment=lesson.recipe.augment,
    views=compare_data.make_views(lesson.views, lesson.recipe.augment),
  )
  if "partner" not in lesson.views:
    return learner
  return learner._replace(loss_fn=compare_data.with_partners(learner.loss_fn))


class Program(NamedTuple):
  """The compiled parts of a cell, each for all seeds."""

  start: Callable[..., Any]  # (keys, variables, guide, state before) -> state
  advance: Any  # (state, guide, data, keys, first epoch) -> state, losses
  cosine: Callable[..., Any] | None  # (state, guide, data, keys) -> [seeds]
  steps: int  # of an epoch


def build(
  lesson: Lesson, data: Any, classes: int, *, epochs: int, chunk_size: Any
) -> Program:
  """Writes the programs of a cell; data are of all seeds, or `[seeds, ...]`."""
  examples, batch_size = data["label"].shape[-1], lesson.recipe.batch_size
  learner = make_learner(lesson)
  method, optimizer = lesson.method, lesson.optimizer
  if method.optimizer is not None:
    optimizer = method.optimizer(optimizer)
  step = training.make_train_step(
    learner.loss_fn, optimizer, update=method.update
  )
  epoch = training.scan_epoch(step)
  image = jax.ShapeDtypeStruct((1, *data["image"].shape[-3:]), jnp.uint8)
  label = jax.ShapeDtypeStruct((1,), jnp.int32)
  spec = frame_data.batch_spec({"image": image, "label": label})
  spec |= {"partner_image": image}

  def start(key, variables, guide, before=None):
    beginner = make_learner(lesson, variables, guide)
    if before is not None:
      beginner = training.hand_over(beginner, before)
    return beginner.init(jax.random.fold_in(key, 0), spec)

  def freeze(guide, data):
    frozen = {"teacher": guide}
    if "partner" in lesson.views:
      frozen["pool"] = compare_data.make_pool(data, classes)
    return frozen

  def advance(state, guide, data, key, first):
    frozen = freeze(guide, data)
    order_key, step_key = jax.random.split(key)

    def run(state, number):
      plan = training.epoch_plan(
        examples, batch_size, key=jax.random.fold_in(order_key, number)
      )
      state, seen = epoch(state, frozen, data, plan, step_key)
      return state, training.mean_metrics(seen, axis=0)

    state, losses = jax.lax.scan(run, state, first + jnp.arange(epochs))
    return state, jax.tree.map(lambda x: x[-1], losses)

  def cosine(state, guide, data, key):
    plan = training.epoch_plan(examples, batch_size, key=key)
    rows = {k: v[0] for k, v in plan.items()}
    batch = {k: v[rows["index"]] for k, v in data.items()} | rows
    split = make_learner(lesson, method=_apart(lesson.method))
    frozen = freeze(guide, data)

    def gradient(weights):
      def loss(student):
        params = state.params | {"student": student}
        both, _ = split.loss_fn(params, state.state, frozen, batch, key)
        return weights @ both

      return ravel_pytree(jax.grad(loss)(state.params["student"]))[0]

    # One loop and one vector each: less to compile than two trees.
    return metrics.gradient_cosine(*jax.lax.map(gradient, jnp.eye(2)))

  shared = {"first"} | ({"data"} if data["label"].ndim == 1 else set())
  if not lesson.teacher or lesson.teacher.seeds_axis is None:
    shared.add("guide")
  over_seeds = functools.partial(
    training.sweep, shared=shared, chunk_size=chunk_size
  )
  return Program(
    jax.jit(over_seeds(start)),
    jax.jit(over_seeds(advance), donate_argnums=0),
    jax.jit(over_seeds(cosine)) if lesson.teacher else None,
    -(-examples // batch_size),
  )


def objective_of(method: kmethods.Method) -> kmethods.Objective:
  """The objective of a method."""
  return method.objective or kmethods.NO_LOSS


def _apart(method: kmethods.Method) -> kmethods.Method:
  """The cross-entropy of a batch, and all that a method adds to it: [2]."""
  objective = objective_of(method)

  def apply(params, state, outputs, batch, key, **options):
    if {"task", "distillation"} <= objective.parts.keys():  # DOT
      both = [objective.parts[k] for k in ("task", "distillation")]
      known = params, state, outputs, batch, key
      return jnp.stack([part(*known, **options)[0] for part in both]), state, {}
    total, _, _ = objective.apply(params, state, outputs, batch, key, **options)
    hard = cross_entropy(outputs["student"].logits, batch["label"])
    hard = masked_mean(hard, batch["mask"])
    weight = state["weights"].get("ce", 0.0)
    return jnp.stack([hard, total - weight * hard]), state, {}

  return method._replace(objective=objective._replace(apply=apply))


def make_evaluation(
  lesson: Lesson, parts: dict[str, slice], *, chunk_size: int | None
) -> Callable[..., Any]:
  """Compiles the evaluation of all seeds on the parts of held-out images."""
  answering: Any = objective_of(lesson.method).predict
  teacher: Any = lesson.teacher

  def evaluate(student, own, guide, held_out, targets):
    # An objective that answers for its student may ask the teacher.
    def answer(outputs, images):
      theirs, _ = teacher.forward(guide, images, train=False, key=None)
      return answering(*own, {"student": outputs, "teacher": theirs})

    inputs, how = (student, held_out["image"]), answer if answering else None
    logits, embedding = predict(lesson.network.forward, *inputs, answer=how)
    rows: Any = [logits, embedding, held_out["label"], targets]
    scores = {
      name: score(*jax.tree.map(lambda x, part=part: x[part], rows))
      for name, part in parts.items()
    }
    return scores, logits, embedding

  shared = {"held_out", "targets"}
  if not (teacher and answering) or teacher.seeds_axis is None:
    shared.add("guide")
  return jax.jit(training.sweep(evaluate, shared=shared, chunk_size=chunk_size))
