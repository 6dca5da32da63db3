"""Training of a method's students on some domains, as one program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.frame import commands
from experiments.generalize.data import Data
from experiments.generalize.data import Split
from experiments.generalize.data import split_domains
from experiments.generalize.data import take
from experiments.generalize.losses import Lesson
from experiments.generalize.losses import Setting
from experiments.generalize.methods import ADAM
from experiments.generalize.methods import ROWS
from experiments.generalize.methods import draw_trials
from experiments.generalize.networks import make_network
from kdjax.training import sweep

CHUNK = 500  # images that are evaluated at once


class Student(NamedTuple):
  """All that training changes, and the student's hyper-parameters."""

  params: Any
  moments: Any
  state: Any
  trial: dict[str, jax.Array]


class Seed(NamedTuple):
  """The random choices of a seed, alike for all methods and trials."""

  key: jax.Array
  split: Split


class Program(NamedTuple):
  """The functions of a method and a number of training domains.

  Attributes:
    start: `(seeds) -> students`, `[seeds, trials]`.
    advance: `(students, seeds, data, training, held_out, first) -> students,
      seen`, compiled: steps from `first` to the next evaluation. Its accuracies
      `[seeds, trials, domains]` are "outside", of the images of each domain to
      choose by, and "tested", of those of domains held out to report.
  """

  start: Callable[..., Any]
  advance: Callable[..., Any]


def make_seeds(config: Any, data: Data) -> Seed:
  """The seeds, `[seeds, ...]`."""

  def make(number: jax.Array) -> Seed:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    split_key, key = jax.random.split(key)
    return Seed(key, split_domains(split_key, data))

  return jax.vmap(make)(jnp.arange(config.seeds))


def make_program(name: str, config: Any, data: Data, domains: int) -> Program:
  """Makes the program of a method for a number of training domains."""
  method, shape = ROWS[name], data.shape
  network = make_network(config, shape, data.classes)
  judge = make_network(config, shape, domains)

  def embedding(key: jax.Array) -> jax.Array:
    return network.embed(network.init(key), jnp.zeros((1, *shape)))

  width = jax.eval_shape(embedding, jax.random.key(0)).shape[-1]
  setting = Setting(network, judge, domains, data.classes, width, shape)

  def start_seed(seed: Seed) -> Student:
    keys = jax.random.split(jax.random.fold_in(seed.key, 0), 3)

    def start(trial: dict[str, jax.Array]) -> Student:
      extra, state = method.init(keys[1], setting)
      params = {"network": network.init(keys[0])} | extra
      return Student(params, ADAM.init(params), state, trial)

    return jax.vmap(start)(draw_trials(name, config, keys[2]))

  def step(
    student: Student, seed: Seed, data: Data, training: Any, number: Any
  ):
    key = jax.random.fold_in(jax.random.fold_in(seed.key, 1), number)
    batch_key, key = jax.random.split(key)
    # With replacement, as DomainBed's loaders draw.
    place = jax.random.randint(
      batch_key, (domains, config.batch_size), 0, seed.split.inside.shape[1]
    )
    index = jnp.take_along_axis(seed.split.inside[training], place, 1)
    images, labels = take(data, training, index)
    trial, moments = student.trial, student.moments
    rate, anneal = trial["learning_rate"], trial["anneal"]
    weight = jnp.where(number < anneal, method.before, trial["weight"])
    if method.anneal:
      # Adam begins anew where the loss jumps.
      moments = jax.tree.map(
        lambda new, old: jnp.where((number == anneal) & (number > 0), new, old),
        ADAM.init(student.params),
        moments,
      )
    lesson = Lesson(
      network, judge, images, labels, rate, weight, student.state, key
    )
    return Student(*method.update(student.params, moments, lesson), trial)

  def predict(student: Student, images: jax.Array) -> jax.Array:
    def answer(images: jax.Array) -> jax.Array:
      return method.predict(network, student.params, images)

    if config.network == "mlp":
      return answer(images)
    # Maps of all images at once would not fit.
    return jax.lax.map(
      lambda image: answer(image[None])[0], images, batch_size=CHUNK
    )

  def accuracies(student: Student, parts: Any) -> Any:
    """The accuracy on each domain of each part, `[domains, n, ...]`."""
    images = [images.reshape(-1, *shape) for images, _ in parts.values()]
    predicted = jnp.argmax(predict(student, jnp.concatenate(images)), -1)
    result, first = {}, 0
    for name, (_, labels) in parts.items():
      part = predicted[first : first + labels.size].reshape(labels.shape)
      result[name] = jnp.mean(part == labels, 1)
      first += labels.size
    return result

  over = functools.partial(
    sweep, shared=(), chunk_size=commands.students_at_a_time(config.network)
  )

  def advance(
    students: Student,
    seeds: Seed,
    data: Data,
    training: jax.Array,
    held_out: jax.Array,
    first: jax.Array,
  ) -> Any:
    steps = first + jnp.arange(config.evaluate_every)

    def of_seed(students: Student, seed: Seed) -> Any:
      every = jnp.arange(len(data.label))
      shown = slice(config.evaluate_on or None)
      take_some = functools.partial(take, data)
      split = jax.tree.map(lambda index: index[:, shown], seed.split)
      parts = {
        "outside": take_some(every, split.outside),
        "tested": take_some(held_out, split.tested[held_out]),
      }

      def of_trial(student: Student) -> Any:
        student, _ = jax.lax.scan(
          lambda student, number: (
            step(student, seed, data, training, number),
            None,
          ),
          student,
          steps,
        )
        return student, accuracies(student, parts)

      return over(of_trial)(students)

    return over(of_seed)(students, seeds)

  # To start is cheaper than to compile how.
  return Program(jax.vmap(start_seed), jax.jit(advance))
