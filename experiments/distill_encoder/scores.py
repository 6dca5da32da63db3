"""Scores of embeddings on sentences of documents that no student saw."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from kdjax import finetuning

MEASURES = ("cosine", "top1", "top10", "spearman", "accuracy")
DRAWS = 20  # of the few labeled sentences, the same for every network


def score(
  embeddings: np.ndarray,
  teacher: np.ndarray,
  document: np.ndarray,
  *,
  shots: int,
  classes: int,
  seed: int,
) -> dict[str, float]:
  """Compares embeddings with the teacher's, `[n, width]` both."""
  ours, theirs = _unit(embeddings), _unit(teacher)
  pair = ours @ ours.T, theirs @ theirs.T
  above = np.triu_indices(len(ours), 1)
  # A student may be narrower than its teacher; then there is no cosine.
  equal = ours.shape == theirs.shape
  return {
    "cosine": float(np.sum(ours * theirs, -1).mean()) if equal else np.nan,
    "top1": overlap(*pair, 1),
    "top10": overlap(*pair, min(10, len(ours) - 1)),
    "spearman": float(stats.spearmanr(*(x[above] for x in pair)).statistic),
    "accuracy": few_label_accuracy(
      ours, document, shots=shots, classes=classes, seed=seed
    ),
  }


def _unit(embeddings: np.ndarray) -> np.ndarray:
  embeddings = np.asarray(embeddings, np.float64)
  return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def overlap(ours: np.ndarray, theirs: np.ndarray, count: int) -> float:
  """The share of nearest neighbors that two similarities have in common."""
  found = []
  for similarities in (ours, theirs):
    similarities = similarities.copy()
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, count - 1, axis=-1)[:, :count]
    found.append(nearest)
  shared = [np.isin(a, b).mean() for a, b in zip(*found, strict=True)]
  return float(np.mean(shared))


def few_label_accuracy(
  embeddings: np.ndarray,
  document: np.ndarray,
  *,
  shots: int,
  classes: int,
  seed: int,
) -> float:
  """Accuracy of the nearest class mean: the document of a sentence.

  The classes are the documents with most sentences; `shots` sentences of each
  are labeled, and the others tell the accuracy, each document counting once.
  """
  numbers, counts = np.unique(document, return_counts=True)
  large = np.argsort(-counts, kind="stable")[:classes]
  chosen = numbers[large[counts[large] >= 2 * shots]]
  generator = np.random.default_rng(seed)
  few, rest = [], []
  for _ in range(DRAWS):
    drawn = [
      generator.permutation(np.flatnonzero(document == number))
      for number in chosen
    ]
    few.append(np.concatenate([rows[:shots] for rows in drawn]))
    rest.append(np.concatenate([rows[shots:] for rows in drawn]))
  labels = np.searchsorted(np.sort(chosen), document)
  hits = _hits(
    jnp.asarray(embeddings, jnp.float32),
    jnp.asarray(np.minimum(labels, len(chosen) - 1)),
    np.stack(few),
    np.stack(rest),
    len(chosen),
  )
  hits, own = np.asarray(hits), labels[rest[0]]
  by_class = [np.mean(hits[:, own == k]) for k in range(len(chosen))]
  return float(np.mean(by_class))


@functools.partial(jax.jit, static_argnames="classes")
def _hits(embeddings: Any, labels: Any, few: Any, rest: Any, classes: int):
  """Whether each sentence is assigned to its document, `[draws, rest]`."""

  @jax.vmap
  def draw(few: Any, rest: Any) -> Any:
    means = finetuning.class_prototypes(
      embeddings[few], labels[few], num_classes=classes
    )
    logits = finetuning.prototypical_logits(
      embeddings[rest], means, distance="cosine"
    )
    return jnp.argmax(logits, -1) == labels[rest]

  return draw(few, rest)
