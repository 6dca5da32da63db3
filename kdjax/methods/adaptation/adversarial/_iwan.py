"""Importance-weighted adversarial nets (IWAN)."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops, reweighting
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation._row_kinds import rising, row
from kdjax.methods.adaptation.adversarial._players import Game


def _iwan(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 3.0,
  entropy: ArrayLike = 0.1,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
) -> Objective:
  """Two discriminators; the first one weighs the source for the second one.

  The loss is `1.5 weight * first + weight * second + entropy * H(p_T)`. From
  the first, `kdjax.reweighting.iwan_weights` makes the weights, and the student
  gets no gradient; the second one is behind a gradient reversal.
  """

  def build(embedding: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, 1
    return Game(rngs, first=widths, second=widths)

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    entropy: Array,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    embeddings = source_embedding, target_embedding
    options = {
      "scaling": "mean",
      "where_source": where_source,
      "where_target": where_target,
      "axis_name": axis_name,
    }
    logits = [game.first(x) for x in jax.lax.stop_gradient(embeddings)]
    weights = reweighting.iwan_weights(
      logits[0], where=where_source, axis_name=axis_name
    )
    turn = game.turn(scale, schedule)
    rivals = map(game.second, ops.reverse_gradient(embeddings, turn))
    unsure = adaptation.entropy_loss(target_logits)
    return (
      1.5 * weight * adaptation.dann_loss(*logits, **options)
      + weight
      * adaptation.dann_loss(*rivals, source_weights=weights, **options)
      + entropy * ops.masked_mean(unsure, where_target, axis_name=axis_name)
    )

  return modular(build, loss, weight=weight, entropy=entropy, scale=scale)


ROWS = {
  "iwan": row(
    "IWAN",
    "as DANN, source examples unlike the target weigh less (partial sets)",
    rising(_iwan),
    weight=3.0,
  ),
}
