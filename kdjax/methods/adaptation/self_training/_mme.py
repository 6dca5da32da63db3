"""Minimax entropy (MME)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation.self_training._prototypes import (
  Prototypes,
  by_prototypes,
)


def mme(
  *,
  weight: ArrayLike = 0.1,
  temperature: ArrayLike = 0.05,
) -> Objective:
  """Minimax entropy (MME) of a classifier by prototypes.

  The cross-entropy of the labeled examples and the
  `kdjax.adaptation.mme_loss` of the others, both of prototypes that take
  the place of the student's classifier and answer for it.

  Args:
    weight: of the entropy, kept in the state.
    temperature: of the prototypes' logits.

  Returns:
    An objective which includes the task; its published weight is 1.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Saito et al., `Semi-supervised domain adaptation via minimax entropy
    <https://arxiv.org/abs/1904.06487>`_, 2019.
  """

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    answers = game.classify(source_embedding, temperature)
    task = ops.cross_entropy(answers, source_labels)
    entropy = adaptation.mme_loss(
      target_embedding, game.rows, temperature=temperature
    )
    return ops.masked_mean(
      task, where_source, axis_name=axis_name
    ) + weight * ops.masked_mean(entropy, where_target, axis_name=axis_name)

  return modular(
    Prototypes, loss, predict=by_prototypes(temperature), weight=weight
  )
