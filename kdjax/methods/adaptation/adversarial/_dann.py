"""Domain-adversarial training (DANN)."""

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation._row_kinds import adversary, rising
from kdjax.methods.adaptation.adversarial._players import discriminator_of


def dann(
  *,
  hidden: Sequence[int] = (1024, 1024),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "paper",
) -> Objective:
  """`kdjax.adaptation.dann_loss` of a discriminator, behind a reversal.

  The discriminator of the embeddings learns at full speed, whatever the scale;
  TLlib's has batch normalization besides. "mean" is TLlib's scaling.
  """

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    where_source: Array,
    where_target: Array,
    *,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    embeddings = source_embedding, target_embedding
    reversed_ones = ops.reverse_gradient(embeddings, game.turn(scale, schedule))
    return adaptation.dann_loss(
      *map(game.discriminator, reversed_ones),
      scaling=scaling,
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )

  return modular(discriminator_of(hidden), loss, scale=scale)


ROWS = {
  "dann": adversary(
    "DANN", "a discriminator cannot tell the domains apart", rising(dann)
  ),
}
