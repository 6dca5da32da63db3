"""Margin disparity discrepancy (MDD)."""

import functools
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation._row_kinds import adversary, rising
from kdjax.methods.adaptation.adversarial._players import Game
from kdjax.nets import layers

_near_zero = functools.partial(layers.linear, deviation=0.01)


def _mdd(
  *,
  hidden: Sequence[int] = (1024,),
  margin: ArrayLike = 4.0,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
) -> Objective:
  """`kdjax.adaptation.mdd_loss` of an adversarial classifier of embeddings.

  The student's own logits only choose classes. The adversary starts near 0
  (normal weights of deviation 0.01), and its reversal rises to 0.1, as TLlib's.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, logits.shape[-1]
    return Game(rngs, layer=_near_zero, adversary=widths)

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_logits: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    margin: Array,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    embeddings = source_embedding, target_embedding
    reversed_ones = ops.reverse_gradient(embeddings, game.turn(scale, schedule))
    theirs, there = map(game.adversary, reversed_ones)
    return adaptation.mdd_loss(
      source_logits,
      theirs,
      target_logits,
      there,
      margin=margin,
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )

  return modular(build, loss, margin=margin, scale=scale)


ROWS = {
  "mdd": adversary(
    "MDD",
    "a second classifier turns on the first, the features prevent it",
    rising(_mdd),
    scale=0.1,
  ),
}
