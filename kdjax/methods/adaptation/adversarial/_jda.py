"""Joint adaptation (JDA) of the task and the H-divergence."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation.adversarial._players import discriminator_of


def jda(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  normalize: str = "all",
) -> Objective:
  """Joint adaptation: the task and the H-divergence, as one objective.

  The `kdjax.adaptation.jda_loss` of the source's cross-entropy and of
  `kdjax.adaptation.soft_h_divergence`, whose discriminator raises the
  divergence that the student lowers.

  Args:
    hidden: units of the discriminator's hidden layers.
    weight: lambda, kept in the state.
    schedule: a factor of it by the step; 1 without.
    normalize: of the task, "all" or "labelled".

  Returns:
    An objective which includes the task.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010.
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
