"""Partial adversarial domain adaptation (PADA)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops, reweighting
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule, widen
from kdjax.methods.adaptation._row_kinds import rising, row
from kdjax.methods.adaptation.adversarial._players import Game


def _pada(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 1.0,
  temperature: ArrayLike = 0.1,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
) -> Objective:
  """The task and DANN, with weights of the source's classes.

  The weights are the state, 1 at first, and come from
  `kdjax.reweighting.pada_class_weights` at every `renew(state, {"target":
  outputs})` of the whole target; TLlib renews them every 500 steps.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    game: Any = Game(rngs, discriminator=(embedding.shape[-1], *hidden, 1))
    game.class_weights = nnx.Variable(jnp.ones(logits.shape[-1]))
    return game

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
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    weights = game.class_weights[...][source_labels] * where_source
    mass, count = ops.sum_over_devices(
      (weights.sum(), where_source.sum()), axis_name
    )
    losses = weights * ops.cross_entropy(source_logits, source_labels)
    task = ops.sum_over_devices(losses.sum(), axis_name) / jnp.where(
      mass > 0, mass, 1.0
    )
    embeddings = source_embedding, target_embedding
    rivals = ops.reverse_gradient(embeddings, game.turn(scale, schedule))
    return task + weight * adaptation.dann_loss(
      *map(game.discriminator, rivals),
      scaling="mean",
      # Of mean 1, as weights of rows are.
      source_weights=weights * count / jnp.where(mass > 0, mass, 1.0),
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )

  def renew(state: Any, outputs: Any) -> Any:
    weights = reweighting.pada_class_weights(
      widen(outputs["target"].logits), temperature=temperature
    )
    return state | {"module": state["module"] | {"class_weights": weights}}

  return modular(build, loss, weight=weight, scale=scale)._replace(renew=renew)


ROWS = {
  "pada": row(
    "PADA",
    "as DANN, source classes that the target lacks weigh less (partial sets)",
    rising(_pada),
    cross_entropy=0.0,
  ),
}
