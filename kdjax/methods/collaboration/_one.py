"""ONE: a gated ensemble of the peers."""

from typing import Any

import jax
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


def _one(
  steps_per_epoch: int,
  *,
  weight: ArrayLike = 1.0,
  temperature: ArrayLike = 3.0,
  length: ArrayLike = 80.0,
) -> Objective:
  """ONE: a gated ensemble of the peers teaches each of them.

  The gate sees the embeddings of all peers side by side; the authors' branches
  share the layers that theirs sees.
  """
  ops.check_integer("one: steps_per_epoch", steps_per_epoch, 1)

  def build(outputs: Any, rngs: nnx.Rngs) -> nnx.Module:
    names = peer_names(outputs)
    width = sum(embedding_of(outputs, name).shape[-1] for name in names)
    return _Gate(width, len(names), rngs)

  def loss(
    gate: Any,
    outputs: Any,
    labels: Array,
    *,
    weight: ArrayLike,
    temperature: ArrayLike,
    length: ArrayLike,
  ) -> Array:
    names = peer_names(outputs)
    logits = peer_logits(outputs)
    rows = [embedding_of(outputs, name) for name in names]
    weights = gate(jnp.concatenate(rows, -1))
    ensemble = ops.cross_entropy(
      collaboration.one_logits(logits, weights), labels
    )
    agreement = collaboration.one_loss(logits, weights, temperature=temperature)
    ramp = weight * gate.ramp(steps_per_epoch, length)
    return supervised(logits, labels) + ensemble + ramp * agreement

  return modular(
    build, loss, weight=weight, temperature=temperature, length=length
  )


class _Gate(Ramp):
  """A softmax over peers, after a ReLU as the authors have it."""

  def __init__(self, width: int, peers: int, rngs: nnx.Rngs):
    super().__init__()
    self.linear = layers.linear(width, peers, rngs=rngs)

  def __call__(self, rows: Array) -> Array:
    return jax.nn.softmax(jax.nn.relu(self.linear(rows)))


ROWS = {
  "one": peers(
    "ONE",
    "a gated ensemble of the peers teaches each of them",
    _one,
    source="authors, with a ramp of 80 epochs",
  ),
}
