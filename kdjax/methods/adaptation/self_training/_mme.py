"""Minimax entropy (MME)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods._updates import Turn, alternate
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.self_training._prototypes import (
  Prototypes,
  by_prototypes,
)


def _mme(
  *,
  weight: ArrayLike = 0.1,
  temperature: ArrayLike = 0.05,
) -> Method:
  """A classifier by prototypes, and two updates a batch.

  The first one is of the labeled examples, the second one of
  `kdjax.adaptation.mme_loss` of the others; both move all networks. The
  prototypes take the place of the student's classifier.
  """

  def labeled(
    game: Any,
    source_embedding: Array,
    source_labels: Array,
    where_source: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    answers = game.classify(source_embedding, temperature)
    task = ops.cross_entropy(answers, source_labels)
    return ops.masked_mean(task, where_source, axis_name=axis_name)

  def entropy(
    game: Any,
    target_embedding: Array,
    where_target: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    sure = adaptation.mme_loss(
      target_embedding, game.rows, temperature=temperature
    )
    return weight * ops.masked_mean(sure, where_target, axis_name=axis_name)

  losses = {"labeled": labeled, "entropy": entropy}
  objective = modular(
    Prototypes, losses, predict=by_prototypes(temperature), weight=weight
  )
  update = alternate(Turn("labeled"), Turn("entropy"))
  return Method(objective, update=update)


ROWS = {
  "mme": row(
    "MME",
    "prototypes raise the target's entropy, the features lower it",
    _mme,
    weight=0.1,
    cross_entropy=0.0,
    source="authors",
  ),
}
