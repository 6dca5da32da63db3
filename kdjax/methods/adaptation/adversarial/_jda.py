"""Joint adaptation (JDA) of the task and the H-divergence."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation._row_kinds import rising, row
from kdjax.methods.adaptation.adversarial._players import discriminator_of


def _jda(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  normalize: str = "all",
) -> Objective:
  """`kdjax.adaptation.jda_loss` with `soft_h_divergence` of a discriminator.

  The discriminator raises the divergence that the student lowers.
  """

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_logits: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    # Reversed on both sides of the discriminator: once for the discriminator,
    # twice for the student, whose gradient is again that of the divergence.
    embeddings = ops.reverse_gradient((source_embedding, target_embedding))
    divergence = adaptation.soft_h_divergence(
      *map(game.discriminator, embeddings),
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )
    counted = jnp.sum(where_target, dtype=divergence.dtype)
    return adaptation.jda_loss(
      ops.cross_entropy(source_logits, source_labels),
      ops.reverse_gradient(divergence),
      num_target=ops.sum_over_devices(counted, axis_name),
      weight=game.turn(weight, schedule),
      normalize=normalize,
      where=where_source,
      axis_name=axis_name,
    )

  return modular(discriminator_of(hidden), loss, weight=weight)


ROWS = {
  "jda": row(
    "JDA",
    "the task and the divergence of the domains, as one objective",
    rising(_jda),
    cross_entropy=0.0,
    source="the formula L_JDA",
  ),
}
