"""Chooses the weight of each method, without target labels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.adapt.data import halves
from experiments.adapt.training import Trained
from experiments.frame import rules
from kdjax import adaptation, metrics, reweighting, selection, training
from kdjax.ops import cross_entropy

REVERSE_STEPS = 100  # of all images at once; they suffice to learn the labels


class Row(NamedTuple):
  """The results of one method in the report."""

  weight: float | None  # the chosen one, None without
  validation: dict[str, np.ndarray]  # its scores, `[rounds, seeds]`
  test_accuracy: np.ndarray  # its accuracy on target test images, `[seeds]`
  oracle_weight: float | None  # the best by labels of target validation images
  oracle_accuracy: np.ndarray  # its accuracy on the same images, `[seeds]`
  # Of source and target validation images, by the first seed.
  embeddings: tuple[np.ndarray, np.ndarray]
  # The d_H of 95 of 100 permutations of the domains is below this number.
  null: float
  by_rule: dict[str, float]  # accuracy of the weight that each would choose


def score(outputs: Any, labels: jax.Array, size: int) -> dict[str, jax.Array]:
  """The scores of one student; the first `size` outputs are of the source."""
  source, target = halves((outputs.embedding, outputs.logits), size)
  ratios = reweighting.discriminator_weights(
    source[0], target[0], normalize=False
  )
  hits = metrics.accuracy(source[1], labels)
  losses, neighbours = (
    cross_entropy(source[1], labels),
    jax.nn.softmax(target[1]),
  )
  return rules.score(hits, losses, ratios, target[1], neighbours)


def make_reverse(
  answer: Callable[..., Any], forward: training.Forward, size: int, rate: float
):
  """Reverse validation: a new student learns the target from an adapted one."""

  def fit(variables, images, labels, mask, key):
    student = training.Model(forward, variables)
    optimizer = optax.adam(rate)
    learner = training.distill(student, None, cross_entropy, optimizer)
    batch = {"image": images, "label": labels, "mask": mask}

    def step(state, _):
      return learner.step(state, {}, batch, key, axis_name=None)[0], None

    start = learner.init(key, batch)
    return jax.lax.scan(step, start, None, length=REVERSE_STEPS)[0].student

  def predict(model, images):
    if isinstance(model, training.Variables):
      return forward(model, images, train=False, key=None)[0].logits
    return answer(model, images).logits

  def reverse(state, initial, validation):
    source, target = halves(validation["image"], size)
    parts = source, validation["label"][:size], target
    return selection.reverse_validation(
      jax.random.key(0), state, *parts, fit, predict, initial=initial
    )

  return reverse


@functools.cache
def make_look(
  answer: Callable[..., Any], forward: training.Forward, size: int, rate: float
):
  """The rules' scores and the accuracy on test images, of all students."""
  reverse = make_reverse(answer, forward, size, rate)

  def look(state, initial, validation, test):
    outputs = answer(state, validation["image"])
    scores = score(outputs, validation["label"][:size], size)
    scores |= {"reverse": reverse(state, initial, validation)}
    logits = answer(state, test["image"]).logits
    return scores, jnp.mean(metrics.accuracy(logits, test["label"]))

  over_weights = jax.vmap(look, (0, None, None, None))
  return jax.jit(jax.vmap(over_weights, (0, 0, None, None)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def embed(
  answer: Callable[..., Any], size: int, state: Any, images: Any, key: jax.Array
) -> Any:
  """Both domains' embeddings by one student, and d_H of permuted domains."""
  pair = halves(answer(state, images).embedding, size)
  return pair, adaptation.h_divergence(*pair, key=key).null


def examine(trained: Trained, rule: rules.Rule) -> Row:
  """Chooses the weight of a method; only now are test images looked at."""
  job, config, data = trained.job, trained.job.config, trained.job.data
  size = data.validation_sizes[0]
  look = make_look(trained.answer, job.forward, size, config.learning_rate)
  scores, accuracy = jax.device_get(
    look(trained.state, job.variables, data.validation, data.test)
  )
  scores = {name: values.mean(0) for name, values in scores.items()}
  choices = {rule: rules.choose(rule, scores) for rule in rules.RULES}
  chosen = choices[rule]
  oracle = int(np.argmax(trained.seen["target_accuracy"][-1].mean(0)))
  student = jax.tree.map(lambda x: x[0, chosen], trained.state)
  images, key = data.validation["image"], jax.random.key(config.seed)
  embeddings, null = jax.device_get(
    embed(trained.answer, size, student, images, key)
  )
  weights = config.weights if accuracy.shape[1] > 1 else (None,)
  return Row(
    weights[chosen],
    {name: values[..., chosen] for name, values in trained.seen.items()},
    accuracy[:, chosen],
    weights[oracle],
    accuracy[:, oracle],
    embeddings,
    float(np.quantile(null, 0.95)),
    {name: float(accuracy[:, i].mean()) for name, i in choices.items()},
  )
