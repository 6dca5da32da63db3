"""Chooses the weight of each method, without target labels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _adapt_data
from experiments import _adapt_training
from kdjax import adaptation
from kdjax import metrics

# A rule sees each weight's scores, means over seeds, without target labels.
RULES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
  "source_accuracy": lambda scores: scores["source_accuracy"],
  "information": lambda scores: scores["information"],
  "entropy": lambda scores: scores["entropy"],
  "bnm": lambda scores: scores["bnm"],
  "snd": lambda scores: scores["snd"],
  "importance_weighted": lambda scores: scores["importance_weighted"],
  "dev": lambda scores: scores["dev"],
  # Information alone may reward confident nonsense, and source accuracy alone
  # is blind to the target: the one is the guard of the other.
  "guarded": lambda scores: np.where(
    scores["source_accuracy"] >= scores["source_accuracy"].max() - 0.02,
    scores["information"],
    -np.inf,
  ),
}


class Row(NamedTuple):
  """What is reported of one method.

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
  """What the rules see of one student; higher is better.

  Args:
    outputs: on validation images, those of the source first.
    labels: of the source's, `[size]`.
    size: how many are of the source.

  Returns:
    Name -> a number.
  """
  source, target = _adapt_data.halves((outputs.embedding, outputs.logits), size)
  losses = optax.softmax_cross_entropy_with_integer_labels(source[1], labels)
  weights = adaptation.discriminator_weights(source[0], target[0])
  return {
    "source_accuracy": jnp.mean(metrics.accuracy(source[1], labels)),
    "information": adaptation.im_score(target[1]),
    "entropy": adaptation.entropy_score(target[1]),
    "bnm": adaptation.bnm_score(target[1]),
    "snd": adaptation.snd_score(jax.nn.softmax(target[1])),
    "importance_weighted": adaptation.importance_weighted_score(
      losses, weights
    ),
    "dev": adaptation.dev_score(losses, weights),
  }


@functools.cache
def make_look(answer: Callable[..., Any], size: int):
  """The rules' scores and the accuracy on test images, of all students."""

  def look(state, validation, test):
    outputs = answer(state, validation["image"])
    scores = score(outputs, validation["label"][:size], size)
    logits = answer(state, test["image"]).logits
    return scores, jnp.mean(metrics.accuracy(logits, test["label"]))

  over_weights = jax.vmap(look, (0, None, None))
  return jax.jit(jax.vmap(over_weights, (0, None, None)))


@functools.cache
def make_embedding(answer: Callable[..., Any], size: int):
  """Both domains' embeddings by one student, and d_H of permuted domains."""

  @jax.jit
  def embed(state, images, key):
    pair = _adapt_data.halves(answer(state, images).embedding, size)
    return pair, adaptation.h_divergence(*pair, key=key).null

  return embed


def examine(trained: _adapt_training.Trained, rule: str) -> Row:
  """Chooses the weight of a method; only now are test images looked at.

  Args:
    trained: its students.
    rule: by which the weight is chosen.

  Returns:
    The row of the report.
  """
  config, data = trained.job.config, trained.job.data
  parts = trained.answer, data.validation_sizes[0]
  scores, accuracy = jax.device_get(
    make_look(*parts)(trained.state, data.validation, data.test)
  )
  scores = {name: values.mean(0) for name, values in scores.items()}
  choices = {name: int(np.argmax(see(scores))) for name, see in RULES.items()}
  chosen = choices[rule]
  oracle = int(np.argmax(trained.seen["target_accuracy"][-1].mean(0)))
  embeddings, null = jax.device_get(
    make_embedding(*parts)(
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
