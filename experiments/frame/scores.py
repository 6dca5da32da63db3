"""Predictions of a network for many images, and their scores."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from kdjax import metrics, training
from kdjax.ops import kl_divergence


def predict(
  forward: training.Forward,
  variables: Any,
  images: Any,
  *,
  batch_size: int = 500,
  answer: Callable[..., Any] | None = None,
) -> Any:
  """Logits `[n, classes]` and embeddings `[n, d]`, batch by batch.

  `answer(outputs, images)` gives the logits that are not the network's own.
  """
  plan = training.epoch_plan(len(images), min(batch_size, len(images)))

  def run(index: Array) -> Any:
    x = images[index]
    outputs, _ = forward(variables, x, train=False, key=None)
    logits = answer(outputs, x) if answer else outputs.logits
    return logits, outputs.embedding

  rows = jax.lax.map(run, plan["index"])
  return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[: len(images)], rows)


def score(
  logits: Array, embedding: Array, labels: Array, teacher: Any = None
) -> dict[str, Array]:
  """Scores of predictions `[n, classes]`, also against those of a teacher."""
  scores = {
    "accuracy": metrics.accuracy(logits, labels).mean(),
    "ece": metrics.expected_calibration_error(logits, labels),
  }
  if teacher is None:
    return scores | {"entropy": metrics.entropy(logits).mean()}
  return scores | {
    "agreement": metrics.agreement(logits, teacher[0]).mean(),
    "kl": kl_divergence(logits, teacher[0]).mean(),
    "cka": metrics.cka(embedding, teacher[1]),
  }
