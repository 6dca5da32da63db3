"""Trains the students of one cell, all seeds in one program, and tries them."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from experiments.compare.data import make_pool
from experiments.compare.data import make_views
from experiments.compare.data import with_partners
from kdjax import metrics
from kdjax import training
from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.ops import cross_entropy
from kdjax.ops import kl_divergence
from kdjax.ops import masked_mean


class Teacher(NamedTuple):
  """A frozen network; `seeds_axis` is 0 if each seed has its own."""

  forward: training.Forward
  variables: training.Variables
  seeds_axis: int | None = None


class Lesson(NamedTuple):
  """The training of a network: objective, recipe, optimizer and epochs."""

  name: str  # of the network
  network: training.Network
  objective: Objective
  recipe: training.Recipe
  optimizer: Any
  epochs: int
  teacher: Teacher | None = None
  views: tuple[str, ...] = ()
  dot: bool = False  # whether both gradients have momenta of their own


def make_learner(
  lesson: Lesson, objective: Objective, variables: Any = None, guide: Any = None
) -> training.Learner:
  """The learner of a lesson, with the views that its method asks for.

  Args:
    lesson: what is trained.
    objective: the lesson's, or another one of its parts.
    variables: where the student starts; only `init` needs them.
    guide: the teacher's variables; only `init` needs them.

  Returns:
    The learner.
  """
  teacher = lesson.teacher
  return training.distill(
    training.Network(lambda key: variables, lesson.network.forward),
    training.Model(teacher.forward, guide) if teacher else None,
    objective,
    lesson.optimizer,
    augment=lesson.recipe.augment,
    views=make_views(lesson.views, lesson.recipe.augment),
    rule=training.dot_gradients() if lesson.dot else None,
  )


def loss_of(lesson: Lesson, learner: training.Learner) -> Callable[..., Any]:
  """The loss of a learner, with a partner of each example if it needs one."""
  if "partner" in lesson.views:
    return with_partners(learner.loss_fn)
  return learner.loss_fn


class Program(NamedTuple):
  """The compiled parts of a cell, each for all seeds."""

  start: Callable[..., Any]
  advance: Any
  cosine: Callable[..., Any] | None
  steps: int  # of an epoch


def build(
  lesson: Lesson,
  data: dict[str, Any],
  data_axis: int | None,
  classes: int,
  *,
  epochs: int,
  chunk_size: int | None,
) -> Program:
  """Writes the programs of a cell.

  Args:
    lesson: what is trained.
    data: `{"image", "label"}`, for its shapes.
    data_axis: 0 if each seed has its own images.
    classes: how many.
    epochs: of a round.
    chunk_size: how many seeds are computed at a time, as in training.sweep.

  Returns:
    `start(keys, variables, teacher) -> state`, `advance(state, teacher, data,
    keys, epoch) -> state, losses` and `cosine(state, teacher, data, keys)`,
    not compiled.
  """
  examples, batch_size = data["label"].shape[-1], lesson.recipe.batch_size
  teacher = lesson.teacher
  learner = make_learner(lesson, lesson.objective)
  step = training.make_train_step(
    loss_of(lesson, learner),
    lesson.optimizer,
    rule=training.dot_gradients() if lesson.dot else None,
  )
  epoch = training.scan_epoch(step)
  image = jax.ShapeDtypeStruct((1, *data["image"].shape[-3:]), jnp.uint8)
  spec = {
    "image": image,
    "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((1,), jnp.bool_),
    "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    "partner_image": image,
  }

  def start(key: Array, variables: Any, guide: Any) -> Any:
    beginner = make_learner(lesson, lesson.objective, variables, guide)
    return beginner.init(jax.random.fold_in(key, 0), spec)

  def freeze(guide: Any, data: Any) -> dict[str, Any]:
    frozen = {"teacher": guide}
    if "partner" in lesson.views:
      frozen["pool"] = make_pool(data, classes)
    return frozen

  def advance(
    state: Any, guide: Any, data: Any, key: Array, first: Array
  ) -> Any:
    frozen = freeze(guide, data)
    order_key, step_key = jax.random.split(key)

    def run(state: Any, number: Array) -> Any:
      plan = training.epoch_plan(
        examples, batch_size, key=jax.random.fold_in(order_key, number)
      )
      state, seen = epoch(state, frozen, data, plan, step_key)
      return state, training.mean_metrics(seen, axis=0)

    state, losses = jax.lax.scan(run, state, first + jnp.arange(epochs))
    return state, jax.tree.map(lambda x: x[-1], losses)

  def cosine(state: Any, guide: Any, data: Any, key: Array) -> Array:
    plan = training.epoch_plan(examples, batch_size, key=key)
    rows = {k: v[0] for k, v in plan.items()}
    batch = {k: v[rows["index"]] for k, v in data.items()} | rows
    split = make_learner(lesson, _apart(lesson.objective))
    split_loss = loss_of(lesson, split)
    frozen = freeze(guide, data)

    @jax.grad
    def gradient(student: Any, weights: Array) -> Array:
      params = state.params | {"student": student}
      both, _ = split_loss(params, state.state, frozen, batch, key)
      return weights @ both

    # One loop and one vector each: less to compile than two trees.
    hard, soft = jax.lax.map(
      lambda weights: ravel_pytree(gradient(state.params["student"], weights))[
        0
      ],
      jnp.eye(2),
    )
    return metrics.gradient_cosine(hard, soft)

  shared = {"first"}
  if not teacher or teacher.seeds_axis is None:
    shared.add("guide")
  if data_axis is None:
    shared.add("data")
  over_seeds = functools.partial(
    training.sweep, shared=shared, chunk_size=chunk_size
  )
  return Program(
    jax.jit(over_seeds(start)),
    jax.jit(over_seeds(advance), donate_argnums=0),
    jax.jit(over_seeds(cosine)) if teacher else None,
    -(-examples // batch_size),
  )


def _apart(objective: Objective) -> Objective:
  """The cross-entropy of a batch, and all that an objective adds to it."""

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    **options: Any,
  ) -> Any:
    total, _, _ = objective.apply(params, state, outputs, batch, key, **options)
    if jnp.ndim(total):  # DOT keeps the two apart
      return total, state, {}
    hard = cross_entropy(outputs["student"].logits, batch["label"])
    hard = masked_mean(hard, batch["mask"])
    weight = state["weights"].get("ce", 0.0)
    return jnp.stack([hard, total - weight * hard]), state, {}

  return objective._replace(apply=apply)


def predict(
  forward: training.Forward,
  variables: Any,
  images: Any,
  answer: Callable[..., Any] | None = None,
) -> Any:
  """Logits and embeddings of many images, batch by batch.

  Args:
    forward: the network's.
    variables: its variables.
    images: `[n, height, width, channels]`.
    answer: `(outputs, images) -> logits`, if they are not the network's own.

  Returns:
    `[n, classes]` and `[n, d]`.
  """
  plan = training.epoch_plan(len(images), min(500, len(images)))

  def run(index: Array) -> Any:
    x = images[index]
    outputs, _ = forward(variables, x, train=False, key=None)
    logits = answer(outputs, x) if answer else outputs.logits
    return logits, outputs.embedding

  rows = jax.lax.map(run, plan["index"])
  return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[: len(images)], rows)


def score(
  logits: Array,
  embedding: Array,
  labels: Array,
  teacher_logits: Array | None = None,
  teacher_embedding: Array | None = None,
) -> dict[str, Array]:
  """Scores of one network's predictions and their distance from the teacher's.

  Args:
    logits: `[n, classes]`.
    embedding: `[n, d]`.
    labels: `[n]`.
    teacher_logits: its teacher's, if there is one.
    teacher_embedding: likewise.

  Returns:
    Name -> a number.
  """
  scores = {
    "accuracy": metrics.accuracy(logits, labels).mean(),
    "ece": metrics.expected_calibration_error(logits, labels),
  }
  if teacher_logits is None or teacher_embedding is None:
    return scores | {"entropy": metrics.entropy(logits).mean()}
  return scores | {
    "agreement": metrics.agreement(logits, teacher_logits).mean(),
    "kl": kl_divergence(logits, teacher_logits).mean(),
    "cka": metrics.cka(embedding, teacher_embedding),
  }


def make_evaluation(
  lesson: Lesson, parts: dict[str, slice], *, chunk_size: int | None
) -> Callable[..., Any]:
  """Evaluation of all seeds on the held-out images, compiled.

  Args:
    lesson: how they were trained: its objective may answer for the student,
      with the teacher's help.
    parts: the images of each kind.
    chunk_size: how many seeds are computed at a time, as in training.sweep.

  Returns:
    `evaluate(student, own, teacher, held_out, targets) -> scores, logits,
    embeddings`, with a leading axis of seeds; `own` are the objective's
    parameters and state.
  """
  answering, teacher = lesson.objective.predict, lesson.teacher

  def evaluate(
    student: Any, own: Any, guide: Any, held_out: Any, targets: Any
  ) -> Any:
    def answer(outputs: Outputs, x: Any) -> Array:
      assert answering is not None
      assert teacher is not None
      theirs, _ = teacher.forward(guide, x, train=False, key=None)
      params, state = own
      return answering(params, state, {"student": outputs, "teacher": theirs})

    logits, embedding = predict(
      lesson.network.forward,
      student,
      held_out["image"],
      answer if answering else None,
    )
    scores = {}
    for name, part in parts.items():
      rows = logits, embedding, held_out["label"], *(targets or ())
      scores[name] = score(*(x[part] for x in rows))
    return scores, logits, embedding

  shared = {"held_out", "targets"}
  if not (teacher and answering) or teacher.seeds_axis is None:
    shared.add("guide")
  return jax.jit(training.sweep(evaluate, shared=shared, chunk_size=chunk_size))


class Timed(NamedTuple):
  """A compiled program and what it needs."""

  call: Callable[..., Any]
  bytes: int
  seconds: float


def compiled(function: Any, *args: Any) -> Timed:
  """Compiles for these arguments; says how much memory and time it took."""
  begin = time.perf_counter()
  program = function.lower(*args).compile()
  seconds = time.perf_counter() - begin
  memory = program.memory_analysis()
  size = (
    memory.temp_size_in_bytes + memory.argument_size_in_bytes if memory else 0
  )
  return Timed(program, size, seconds)


def count_parameters(tree: Any, seeds: int) -> int:
  """Parameters of one seed."""
  return sum(x.size for x in jax.tree.leaves(tree)) // seeds


def to_lists(tree: Any) -> Any:
  """Arrays as JSON holds them."""
  return jax.tree.map(lambda x: np.asarray(x).tolist(), tree)
