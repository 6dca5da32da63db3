"""Trains teachers of half of the classes, and students of other classes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cross_task import methods
from experiments.cross_task.data import Part
from experiments.cross_task.methods import (
  ALL_LABELS,
  AMALGAMATION,
  SCRATCH,
  TEACHER,
)
from experiments.frame import networks, rounds
from experiments.frame.scores import predict
from kdjax import training
from kdjax.ops import unit_vectors

Scores = dict[str, np.ndarray]  # name -> `[seeds]`


class Results(NamedTuple):
  """Scores on test images, by method."""

  teachers: Scores  # accuracy on their own classes, by part
  new_classes: dict[str, Scores]
  all_classes: dict[str, Scores]


def make_network(config: Any, part: Part) -> training.Network:
  """A network of the classes of a part."""
  return networks.make_network(
    "mlp", part.train["image"], part.classes, hidden=config.hidden
  )


class Course(NamedTuple):
  """Students of all seeds, and what they learn from."""

  name: str  # of its stages in the run folder
  student: training.Network
  part: Part
  places: np.ndarray  # `[seeds, n]`, the training images that they see
  teaching: methods.Teaching
  frozen: Any  # the teachers' variables by name, `[seeds, ...]`


def train(job: Any) -> Results:
  """Trains everything; test images are looked at afterwards alone."""
  data, config = job.data, job.config
  made = {k: make_network(config, getattr(data, k)) for k in data._fields}
  teachers = {
    name: _train(job, _alone(job, f"teacher_{name}", name, made[name]))
    for name in ("old", "new")
  }
  scores = {
    k: accuracy(made[k], x, getattr(data, k))["accuracy"]
    for k, x in teachers.items()
  }
  return Results(
    scores,
    _learn_new(job, made, teachers),
    _learn_all(job, made, teachers),
  )


def _learn_new(job: Any, made: Any, teachers: Any) -> dict[str, Scores]:
  """New classes, with the help of the teacher of the old ones."""
  part, student = job.data.new, made["new"]
  known = made["old"], teachers["old"]
  teaching = methods.Teaching(made["old"], class_centers(*known, part))
  few = Course("", student, part, part.few, teaching, {"teacher": known[1]})
  rows = {TEACHER: nearest_mean(*known, part)}
  for name, stages in methods.NEW_CLASSES.items():
    if name not in (SCRATCH, ALL_LABELS, *job.config.methods):
      continue
    course = few._replace(name=f"new_{name}")
    if name == ALL_LABELS:
      course = _alone(job, course.name, "new", student)
    variables = _train(job, course, stages)
    rows[name] = accuracy(student, variables, part)
    rows[name] |= nearest_mean(student, variables, part)
  return rows


def _learn_all(job: Any, made: Any, teachers: Any) -> dict[str, Scores]:
  """All classes, from two teachers without labels."""
  part, student = job.data.union, made["union"]
  half = job.data.old.classes
  classes = np.arange(half), np.arange(half, part.classes)
  rows = {TEACHER: most_confident(job, made, teachers)}
  for name, stages in methods.ALL_CLASSES.items():
    if name not in (SCRATCH, ALL_LABELS, *job.config.methods):
      continue
    course = _alone(job, f"all_{name}", "union", student)
    if name == SCRATCH:
      course = course._replace(places=part.few)
    if name == AMALGAMATION:
      taught = [made[k] for k in ("old", "new")]
      course = course._replace(
        teaching=methods.Teaching(taught, classes=classes),
        frozen={"teacher_0": teachers["old"], "teacher_1": teachers["new"]},
      )
    rows[name] = accuracy(student, _train(job, course, stages), part)
  return rows


def _alone(
  job: Any, name: str, part_name: str, student: training.Network
) -> Course:
  """The course of students that see all images of a part, with labels."""
  part, seeds = getattr(job.data, part_name), job.config.seeds
  count = len(part.train["label"])
  places = np.broadcast_to(np.arange(count), (seeds, count))
  return Course(name, student, part, places, methods.Teaching(student), {})


def _train(
  job: Any, course: Course, stages: tuple[str, ...] = (SCRATCH, SCRATCH)
) -> training.Variables:
  """Trains the students through all stages."""
  keys = rounds.seed_keys(job.config)
  drawn = jnp.asarray(course.places), course.teaching.centers
  made = {x: _make_stage(job, course, x) for x in dict.fromkeys(stages)}
  student: Any = None

  def describe(seen):
    loss = float(np.mean(seen["loss"]))
    return {"loss": loss}, f"loss {loss:.3f}"

  for number, stage in enumerate(stages):
    start, advance = made[stage]
    state, plan, key = start(keys, *drawn, jnp.int32(number))
    if student is not None:
      state = state._replace(
        params=state.params | {"student": student.params},
        state=state.state | {"student": student.state},
      )
    state, _ = rounds.train(
      job,
      f"{course.name}_{number + 1}",
      advance,
      (course.part.train,),
      (state, plan, key),
      describe,
    )
    student = state.student
  return student


def _make_stage(
  job: Any, course: Course, stage: str
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """The program that draws the start of all seeds, and that of a round."""
  config, part = job.config, course.part
  centers = course.teaching.centers
  frozen = {} if stage == SCRATCH else course.frozen

  def learner_of(centers: Any) -> training.Learner:
    teaching = course.teaching._replace(centers=centers)
    return methods.make_learner(stage, course.student, teaching, config)

  # The centers of a seed are in the state of its objective.
  learner = learner_of(None if centers is None else jnp.zeros_like(centers[0]))
  epoch = training.scan_epoch(learner.step)

  def of_seed(state, frozen, train, plan, key):
    state, sums = epoch(state, frozen, train, plan, key)
    total, count = sums["loss"]
    return state, {"loss": jnp.sum(total) / jnp.sum(count)}

  sweep = jax.jit(training.sweep(of_seed, shared=("train",)))

  def advance(state, train, plan, key):
    return sweep(state, frozen, train, plan, key)

  @jax.jit
  def start(keys, places, centers, number):
    def one(key, places, centers):
      # Each stage has batches of its own, the same under every method.
      init_key, key = jax.random.split(key)
      plan_key, key = jax.random.split(jax.random.fold_in(key, number))
      plan = rounds.plan_steps(
        plan_key, places.shape[0], config.batch_size, config.steps
      )
      plan["index"] = places[plan["index"]]
      return learner_of(centers).init(init_key, part.spec()), plan, key

    return jax.vmap(one)(keys, places, centers)

  return start, advance


def class_centers(
  network: training.Network, variables: Any, part: Part
) -> jax.Array:
  """Means of the labelled images' embeddings of each class, of length 1.

  Returns `[seeds, classes, width]`.
  """

  @jax.jit
  @jax.vmap
  def run(variables: Any, few: jax.Array) -> jax.Array:
    images, labels = (part.train[k][few] for k in ("image", "label"))
    embedding = predict(network.forward, variables, images)[1]
    members = jax.nn.one_hot(labels, part.classes)
    return unit_vectors(members.T @ embedding)

  return run(variables, jnp.asarray(part.few))


def nearest_mean(
  network: training.Network, variables: Any, part: Part
) -> Scores:
  """The accuracy of the nearest mean of the labelled images' embeddings."""
  centers = class_centers(network, variables, part)

  @jax.jit
  @jax.vmap
  def run(variables: Any, centers: jax.Array) -> jax.Array:
    embedding = predict(network.forward, variables, part.test["image"])[1]
    answers = jnp.argmax(unit_vectors(embedding) @ centers.T, -1)
    return jnp.mean(answers == part.test["label"])

  return {"nearest": np.asarray(run(variables, centers))}


def accuracy(network: training.Network, variables: Any, part: Part) -> Scores:
  """The accuracy of the network's own answers."""

  @jax.jit
  @jax.vmap
  def run(variables: Any) -> jax.Array:
    logits = predict(network.forward, variables, part.test["image"])[0]
    return jnp.mean(jnp.argmax(logits, -1) == part.test["label"])

  return {"accuracy": np.asarray(run(variables))}


def most_confident(job: Any, made: Any, teachers: Any) -> Scores:
  """The answer of the teacher that is surer of its own classes."""
  test = job.data.union.test

  @jax.jit
  @jax.vmap
  def run(teachers: Any) -> jax.Array:
    shares = [
      jax.nn.softmax(predict(made[k].forward, teachers[k], test["image"])[0])
      for k in ("old", "new")  # the order of the student's classes
    ]
    answers = jnp.argmax(jnp.concatenate(shares, -1), -1)
    return jnp.mean(answers == test["label"])

  return {"accuracy": np.asarray(run(teachers))}
