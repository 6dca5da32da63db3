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
from kdjax import adaptation
from kdjax import metrics
from kdjax import reweighting
from kdjax import selection
from kdjax import training
from kdjax.ops import masked_mean

REVERSE_STEPS = 100  # of all images at once; they suffice to learn the labels


class Row(NamedTuple):
  """The results of one method in the report.

  Attributes:
    weight: the chosen one, None without.
    validation: scores of the chosen weight, `[rounds, seeds]`.
    test_accuracy: its accuracy on target test images, `[seeds]`.
    oracle_weight: the best one by the labels of target validation images.
    oracle_accuracy: its accuracy on the same images, `[seeds]`.
    embeddings: of source and target validation images, by the first seed.
    null: d_H that these stay below in 95 of 100 permutations of the domains.
    by_rule: for each rule, the mean accuracy of the weight it would choose.
  """

  weight: float | None
  validation: dict[str, np.ndarray]
  test_accuracy: np.ndarray
  oracle_weight: float | None
  oracle_accuracy: np.ndarray
  embeddings: tuple[np.ndarray, np.ndarray]
  null: float
  by_rule: dict[str, float]


def score(outputs: Any, labels: jax.Array, size: int) -> dict[str, jax.Array]:
  """The scores of one student for the rules; higher is better.

  Args:
    outputs: on validation images, those of the source first.
    labels: of the source's, `[size]`.
    size: how many are of the source.

  Returns:
    Name -> a number.
  """
  source, target = halves((outputs.embedding, outputs.logits), size)
  losses = optax.softmax_cross_entropy_with_integer_labels(source[1], labels)
  ratios = reweighting.discriminator_weights(
    source[0], target[0], normalize=False
  )
  return {
    "source_accuracy": jnp.mean(metrics.accuracy(source[1], labels)),
    "information": selection.im_score(target[1]),
    "entropy": selection.entropy_score(target[1]),
    "bnm": selection.bnm_score(target[1]),
    "snd": selection.snd_score(jax.nn.softmax(target[1])),
    "importance_weighted": selection.importance_weighted_score(
      losses, ratios / jnp.mean(ratios)
    ),
    "dev": selection.dev_score(losses, ratios),
  }


@functools.cache
def make_reverse(
  answer: Callable[..., Any], forward: training.Forward, size: int, rate: float
):
  """Reverse validation: a new student learns the target from an adapted one.

  Args:
    answer: the adapted student's.
    forward: of the network that starts anew.
    size: how many validation images are of the source.
    rate: of Adam.

  Returns:
    `(state, initial variables, validation) -> accuracy on the source`.
  """
  optimizer = optax.adam(rate)

  def fit(variables, images, labels, mask, key):
    def loss_fn(params, state):
      start = training.Variables(params, state)
      outputs, state = forward(start, images, train=True, key=key)
      losses = optax.softmax_cross_entropy_with_integer_labels(
        outputs.logits, labels
      )
      return masked_mean(losses, mask), state

    def step(carry, _):
      (params, state), moments = carry
      slopes, state = jax.grad(loss_fn, has_aux=True)(params, state)
      updates, moments = optimizer.update(slopes, moments, params)
      params = optax.apply_updates(params, updates)
      return (training.Variables(params, state), moments), None

    start = variables, optimizer.init(variables.params)
    return jax.lax.scan(step, start, None, length=REVERSE_STEPS)[0][0]

  def predict(model, images):
    if isinstance(model, training.Variables):
      return forward(model, images, train=False, key=None)[0].logits
    return answer(model, images).logits

  def reverse(state, initial, validation):
    source, target = halves(validation["image"], size)
    return selection.reverse_validation(
      jax.random.key(0),
      state,
      source,
      validation["label"][:size],
      target,
      fit,
      predict,
      initial=initial,
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


@functools.cache
def make_embedding(answer: Callable[..., Any], size: int):
  """Both domains' embeddings by one student, and d_H of permuted domains."""

  @jax.jit
  def embed(state, images, key):
    pair = halves(answer(state, images).embedding, size)
    return pair, adaptation.h_divergence(*pair, key=key).null

  return embed


def examine(trained: Trained, rule: str) -> Row:
  """Chooses the weight of a method; only now are test images looked at.

  Args:
    trained: its students.
    rule: by which the weight is chosen.

  Returns:
    The row of the report.
  """
  config, data = trained.job.config, trained.job.data
  job, size = trained.job, data.validation_sizes[0]
  look = make_look(trained.answer, job.forward, size, config.learning_rate)
  scores, accuracy = jax.device_get(
    look(trained.state, job.variables, data.validation, data.test)
  )
  scores = {name: values.mean(0) for name, values in scores.items()}
  choices = {rule: rules.choose(rule, scores) for rule in rules.RULES}
  chosen = choices[rule]
  oracle = int(np.argmax(trained.seen["target_accuracy"][-1].mean(0)))
  embeddings, null = jax.device_get(
    make_embedding(trained.answer, size)(
      jax.tree.map(lambda x: x[0, chosen], trained.state),
      data.validation["image"],
      jax.random.key(config.seed),
    )
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
