"""Conditional adversarial training (CDAN, CDAN+E)."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation.adversarial._players import Game


def cdan(
  *,
  hidden: Sequence[int] = (1024, 1024),
  entropy: bool = False,
  mapped: int | None = None,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "pooled",
) -> Objective:
  """Conditional adversarial training (CDAN): embeddings times probabilities.

  As `dann`, of the `kdjax.adaptation.cdan_map`.

  Args:
    hidden: units of the discriminator's hidden layers.
    entropy: whether sure examples weigh more (CDAN+E), by
      `kdjax.adaptation.cdan_weights`.
    mapped: the width of a randomized map, whose matrices are part of the
      state; without it the map is the outer product. The authors randomize
      from 4096 entries on, with 1024.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.
    scaling: of the loss; "pooled" is TLlib's.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Long et al., `Conditional adversarial domain adaptation
    <https://arxiv.org/abs/1705.10667>`_, 2018.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    dims, classes = embedding.shape[-1], logits.shape[-1]
    width = dims * classes if mapped is None else mapped
    game: Any = Game(rngs, discriminator=(width, *hidden, 1))
    if mapped is not None:
      matrices = adaptation.cdan_matrices(
        rngs.params(), dims, classes, mapped_dims=mapped
      )
      game.feature_matrix, game.class_matrix = map(nnx.Variable, matrices)
    return game

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_logits: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    masks = {"where_source": where_source, "where_target": where_target}
    matrices = None
    if mapped is not None:
      matrices = game.feature_matrix[...], game.class_matrix[...]
    turn = game.turn(scale, schedule)
    embeddings = source_embedding, target_embedding
    predicted = [jax.nn.softmax(x) for x in (source_logits, target_logits)]
    # The map is reversed: the probabilities get no gradient anyway.
    maps = [
      ops.reverse_gradient(adaptation.cdan_map(*pair, matrices=matrices), turn)
      for pair in zip(embeddings, predicted, strict=True)
    ]
    weights: tuple[Array | None, Array | None] = None, None
    if entropy:
      weights = adaptation.cdan_weights(
        *predicted, axis_name=axis_name, **masks
      )
    return adaptation.dann_loss(
      *map(game.discriminator, maps),
      scaling=scaling,
      source_weights=weights[0],
      target_weights=weights[1],
      axis_name=axis_name,
      **masks,
    )

  return modular(build, loss, scale=scale)
