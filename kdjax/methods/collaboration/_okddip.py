"""OKDDip: attention among auxiliary peers, and a leader."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.collaboration._peers import (
  Ramp,
  embedding_of,
  peer_logits,
  peer_names,
  supervised,
)
from kdjax.methods.collaboration._row_kinds import peers
from kdjax.nets import layers


def _okddip(
  steps_per_epoch: int,
  *,
  weight: ArrayLike = 1.0,
  temperature: ArrayLike = 3.0,
  length: ArrayLike = 80.0,
) -> Objective:
  """OKDDip: attention among auxiliary peers; the last peer is the leader."""
  ops.check_integer("okddip: steps_per_epoch", steps_per_epoch, 1)

  def build(outputs: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = {embedding_of(outputs, k).shape[-1] for k in peer_names(outputs)}
    if len(widths) != 1:
      raise ValueError(
        f"okddip: embeddings of the peers have the widths {sorted(widths)}; "
        "expected one width, since they share the maps of their attention."
      )
    return _Attention(widths.pop(), rngs)

  def loss(
    attention: Any,
    outputs: Any,
    labels: Array,
    *,
    weight: ArrayLike,
    temperature: ArrayLike,
    length: ArrayLike,
  ) -> Array:
    names, logits = peer_names(outputs), peer_logits(outputs)
    rows = jnp.stack([embedding_of(outputs, k) for k in names[:-1]], 1)
    group = collaboration.okddip_loss(
      logits[:-1], attention(rows), temperature=temperature
    )
    leader = jnp.square(temperature) * ops.kl_divergence(
      logits[-1], jnp.mean(logits[:-1], 0), temperature=temperature
    )
    ramp = weight * attention.ramp(steps_per_epoch, length)
    return supervised(logits, labels) + ramp * (group + leader)

  return modular(
    build, loss, weight=weight, temperature=temperature, length=length
  )


class _Attention(Ramp):
  """Queries and keys of an eighth of the width."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    super().__init__()
    inner = max(width // 8, 1)
    self.query = layers.linear(width, inner, use_bias=False, rngs=rngs)
    self.key = layers.linear(width, inner, use_bias=False, rngs=rngs)

  def __call__(self, rows: Array) -> Array:
    return collaboration.okddip_attention(self.query(rows), self.key(rows))


ROWS = {
  "okddip": peers(
    "OKDDip",
    "auxiliary peers attend to each other, and teach a leader, the last peer",
    _okddip,
    networks=("peer_0", "peer_1", "peer_2"),
    source="authors, with a ramp of 80 epochs",
  ),
}
