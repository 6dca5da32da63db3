"""Ranks teachers by transferability scores and by their true accuracy."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.finetune import training
from experiments.finetune.methods import answer
from kdjax import selection

# Criterion -> its name and its input.
CRITERIA = {
  "leep": ("LEEP", "probabilities"),
  "nce": ("NCE", "predictions"),
  "logme": ("LogME", "embeddings"),
  "h_score": ("H-score", "embeddings"),
  "regularized_h_score": ("regularized H-score", "embeddings"),
  "transrate": ("TransRate", "embeddings"),
}
JUDGES = "few", "many"


class Teachers(NamedTuple):
  """The results of the teachers in the report."""

  names: tuple[str, ...]  # of the teachers
  accuracy: np.ndarray  # `[teachers, seeds]`, on test images after fine-tuning
  # By criterion, with the few labels of a seed and with all labels of the
  # target's training images: `[2, teachers, seeds]`; Kendall's tau of these
  # scores and the accuracy, `[2, seeds]`; and the accuracy of the teacher that
  # is ranked first, `[2, seeds]`.
  scores: dict[str, np.ndarray]
  correlations: dict[str, np.ndarray]
  picked: dict[str, np.ndarray]


def compare(job: Any, teachers: Any) -> Teachers:
  """Fine-tunes all teachers `[seeds, teachers]` and ranks them beforehand."""
  names = "source", *job.config.teachers
  scores, picks = rank(job, teachers, names)
  accuracy = truth(job, teachers, len(names))
  seeds = np.arange(job.config.seeds)
  return Teachers(
    names,
    accuracy,
    scores,
    {name: correlate(values, accuracy) for name, values in scores.items()},
    {name: accuracy[first, seeds] for name, first in picks.items()},
  )


def truth(job: Any, teachers: Any, count: int) -> np.ndarray:
  """Accuracy that plain fine-tuning reaches, `[teachers, seeds]`."""

  def repeat(tree):
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), tree)

  # A teacher of a seed is as good as another seed.
  networks = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), teachers)
  few = np.repeat(job.data.few, count, 0)
  many = job._replace(data=job.data._replace(few=few), key=repeat(job.key))
  student = training.with_new_head(networks, repeat(job.variables))
  trained, seen = training.fine_tune(
    "teachers", "finetune", many, student, networks
  )
  accuracy = training.test_accuracy(many, trained, training.choose(seen))
  return accuracy.reshape(-1, count).T


def rank(job: Any, teachers: Any, names: tuple[str, ...]):
  """The scores of the teachers, and the first of them, by criterion."""

  @jax.jit
  @jax.vmap
  @jax.vmap
  def look(variables):
    # Of all images: the few are among them.
    outputs = answer(job.forward, variables, job.data.target["image"])
    return {
      "embeddings": outputs.embedding,
      "probabilities": jax.nn.softmax(outputs.logits),
      "predictions": jnp.argmax(outputs.logits, -1),
    }

  seen = jax.device_get(look(teachers))
  labels = np.asarray(job.data.target["label"])
  shape = len(JUDGES), len(names), job.config.seeds
  scores = {name: np.zeros(shape) for name in CRITERIA}
  first = {name: np.zeros(shape[::2], int) for name in CRITERIA}
  for criterion, (_, view) in CRITERIA.items():
    rule = compiled(criterion, job.data.classes)
    for seed, few in enumerate(job.data.few):
      for judge, places in enumerate((few, slice(None))):
        candidates = {
          name: seen[view][seed, i][places] for i, name in enumerate(names)
        }
        ranking = selection.rank_teachers(
          candidates, labels[places], criterion=rule
        )
        order = [names.index(name) for name in ranking.names]
        scores[criterion][judge, order, seed] = ranking.scores
        first[criterion][judge, seed] = order[0]
  return scores, first


@functools.cache
def compiled(criterion: str, classes: int):
  """The criterion as one program: `rank_teachers` takes a function too."""
  options: dict[str, Any] = {"num_classes": classes}
  if criterion == "nce":
    options = {}
  if criterion == "regularized_h_score":
    criterion, options["covariance"] = "h_score", "ledoit-wolf"
  return jax.jit(functools.partial(getattr(selection, criterion), **options))


def correlate(scores: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
  """Kendall's tau over teachers, `[2, seeds]`; 0 where all scores are alike."""
  taus = [list(map(stats.kendalltau, x.T, accuracy.T)) for x in scores]
  return np.nan_to_num([[tau.statistic for tau in row] for row in taus])
