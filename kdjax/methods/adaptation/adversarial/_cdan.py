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
from kdjax.methods.adaptation._row_kinds import adversary, rising
from kdjax.methods.adaptation.adversarial._players import Game


def _cdan(
  *,
  hidden: Sequence[int] = (1024, 1024),
  entropy: bool = False,
  mapped: int | None = None,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "pooled",
) -> Objective:
  """DANN of `kdjax.adaptation.cdan_map`: embeddings times probabilities.

  `mapped` is the width of a randomized map, whose matrices are part of the
  state; the authors randomize from 4096 entries on, with 1024. `entropy` weighs
  sure examples more. The scaling "pooled" is TLlib's.
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


def _cdan_random(
  *,
  hidden: Sequence[int] = (1024, 1024),
  mapped: int = 1024,
  entropy: bool = False,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "pooled",
) -> Objective:
  """CDAN by random maps of a given width."""
  return _cdan(
    hidden=hidden,
    entropy=entropy,
    mapped=mapped,
    scale=scale,
    schedule=schedule,
    scaling=scaling,
  )


ROWS = {
  "cdan": adversary(
    "CDAN",
    "as DANN, of embeddings times predicted classes",
    rising(_cdan),
  ),
  "cdan_entropy": adversary(
    "CDAN+E",
    "as CDAN, sure examples weigh more",
    rising(_cdan, entropy=True),
  ),
  "cdan_random": adversary(
    "CDAN, randomized",
    "as CDAN, by random maps of a given width",
    rising(_cdan_random),
  ),
}
