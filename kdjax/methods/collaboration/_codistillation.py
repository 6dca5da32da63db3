"""Codistillation: stale answers of the other peers."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.collaboration._peers import (
  peer_logits,
  select_peers,
  supervised,
)
from kdjax.methods.collaboration._row_kinds import peers


def _codistillation(*, weight: ArrayLike = 1.0, burn_in: int = 0) -> Objective:
  """Codistillation: the other peers' stale answers, after a burn-in."""
  ops.check_integer("codistillation: burn_in", burn_in, 0)

  def stale(outputs: Any) -> tuple[Array, Array]:
    return peer_logits(outputs), peer_logits(outputs, "stale")

  def loss(logits: Array, stale_logits: Array) -> Array:
    values = [
      collaboration.codistillation_loss(z, jnp.delete(stale_logits, i, 0))
      for i, z in enumerate(logits)
    ]
    return jnp.sum(jnp.stack(values), 0)

  def schedule(step: Array) -> ArrayLike:
    return jnp.where(step >= burn_in, weight, 0.0)

  return combine(
    {
      "labels": (1.0, stateless(supervised, select_peers)),
      "stale": (schedule, stateless(loss, stale)),
    }
  )


ROWS = {
  "codistillation": peers(
    "codistillation",
    "each peer learns from stale answers of the others, after a burn-in",
    _codistillation,
    networks=("peer_0", "peer_1", "stale_0", "stale_1"),
    source="paper",
  ),
}
