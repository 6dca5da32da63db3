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
from kdjax.methods.adaptation.adversarial._players import Game
from kdjax.nets import layers

_near_zero = functools.partial(layers.linear, deviation=0.01)


def mdd(
  *,
  hidden: Sequence[int] = (1024,),
  margin: ArrayLike = 4.0,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
) -> Objective:
  """Margin disparity discrepancy (MDD): a classifier that turns on the first.

  The `kdjax.adaptation.mdd_loss` of the student's own logits, which only
  choose classes, and of an adversarial classifier behind a gradient reversal,
  which starts near 0 (normal weights of deviation 0.01), as TLlib's does.

  Args:
    hidden: units of the adversarial classifier's hidden layers.
    margin: gamma, kept in the state.
    scale: of the reversed gradient, kept in the state; TLlib's rises to 0.1.
    schedule: a factor of it by the step; 1 without.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Zhang et al., `Bridging theory and algorithm for domain adaptation
    <https://arxiv.org/abs/1904.05801>`_, 2019.
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
