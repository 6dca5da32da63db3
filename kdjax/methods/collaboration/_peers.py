"""Collaborative learning: objectives of the roles `peer_0`, `peer_1` and so on.

Each includes the labels: the cross-entropy is summed over peers, as if each
were trained on its own.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, distillation, federated, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, combine, stateless
from kdjax.methods._stages import field_of
from kdjax.nets import layers

# Kind of roles -> the function that makes them, for errors.
_MAKERS = {
  "stale": "training.collaborate",
  "teacher": "training.guide",
  "student_narrow": "training.distill(..., views=methods.sandwich_views())",
}


def peer_names(outputs: Any, kind: str = "peer") -> list[str]:
  """The roles of one kind, `peer_0`, `peer_1` ..., in their order."""
  names = [k for k in outputs if re.fullmatch(rf"{kind}_\d+", k)]
  if len(names) < 2:
    maker = _MAKERS.get(kind, "training.collaborate")
    raise ValueError(
      f"the objective reads the roles '{kind}_0', '{kind}_1' and so on, of "
      f"{sorted(outputs)}; expected two or more, as {maker} makes them."
    )
  return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def peer_logits(outputs: Any, kind: str = "peer") -> Array:
  """The logits of all peers, `[peers, batch, classes]`."""
  names = peer_names(outputs, kind)
  logits = [outputs[name].logits for name in names]
  for name, z in zip(names, logits, strict=True):
    if z.shape != logits[0].shape:
      raise ValueError(
        f"the logits of {name} have shape {z.shape}; expected "
        f"{logits[0].shape}, as of {names[0]}: peers have the same classes."
      )
  return jnp.stack(logits)


def supervised(logits: Array, labels: Array) -> Array:
  """The cross-entropy of all peers, summed."""
  rows = jnp.broadcast_to(labels[None], logits.shape[:2])
  return jnp.sum(ops.cross_entropy(logits, rows), 0)


def _select(outputs: Any, labels: Array) -> tuple[Array, Array]:
  return peer_logits(outputs), labels


def independent() -> Objective:
  """Peers that do not know of each other."""
  return stateless(supervised, _select)


def mutual(
  *,
  weight: ArrayLike = 1.0,
  reduction: str = "sum",
  epsilon: ArrayLike = 1e-8,
) -> Objective:
  """Deep mutual learning."""

  def loss(
    logits: Array, labels: Array, *, weight: ArrayLike, epsilon: ArrayLike
  ) -> Array:
    others = collaboration.mutual_loss(
      logits, reduction=reduction, epsilon=epsilon
    )
    return supervised(logits, labels) + weight * jnp.sum(others, 0)

  return stateless(loss, _select, weight=weight, epsilon=epsilon)


def kdcl(
  *,
  weight: ArrayLike = 1.0,
  method: str = "min_logit",
  temperature: ArrayLike = 2.0,
) -> Objective:
  """KDCL: a teacher made of the peers, for each example."""

  def loss(
    logits: Array, labels: Array, *, weight: ArrayLike, temperature: ArrayLike
  ) -> Array:
    target = collaboration.kdcl_targets(logits, labels, method=method)
    targets = jnp.broadcast_to(target[None], logits.shape)
    soft = distillation.soft_target_loss(
      logits, targets, temperature=temperature
    )
    return supervised(logits, labels) + weight * jnp.sum(soft, 0)

  return stateless(loss, _select, weight=weight, temperature=temperature)


def codistillation(*, weight: ArrayLike = 1.0, burn_in: int = 0) -> Objective:
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
      "labels": (1.0, stateless(supervised, _select)),
      "stale": (schedule, stateless(loss, stale)),
    }
  )


def one(
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
    width = sum(_embedding(outputs, name).shape[-1] for name in names)
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
    rows = [_embedding(outputs, name) for name in names]
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


def okddip(
  steps_per_epoch: int,
  *,
  weight: ArrayLike = 1.0,
  temperature: ArrayLike = 3.0,
  length: ArrayLike = 80.0,
) -> Objective:
  """OKDDip: attention among auxiliary peers; the last peer is the leader."""
  ops.check_integer("okddip: steps_per_epoch", steps_per_epoch, 1)

  def build(outputs: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = {_embedding(outputs, k).shape[-1] for k in peer_names(outputs)}
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
    rows = jnp.stack([_embedding(outputs, k) for k in names[:-1]], 1)
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


def fedkd(*, weight: ArrayLike = 1.0) -> Objective:
  """FedKD: the mentor `peer_0` and the mentee `peer_1` teach each other."""

  def loss(
    logits: Array,
    labels: Array,
    *,
    weight: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    options = {"where": where, "axis_name": axis_name}
    both = federated.fedkd_loss(logits[0], logits[1], labels, **options)
    both += federated.fedkd_loss(logits[1], logits[0], labels, **options)
    own = ops.masked_mean(
      supervised(logits, labels), where, axis_name=axis_name
    )
    return own + weight * both

  return stateless(loss, _select, weight=weight)


class _Ramp(nnx.Module):
  """Counts its calls."""

  def __init__(self):
    self.step = nnx.Variable(jnp.zeros((), jnp.int32))

  def ramp(self, steps_per_epoch: int, length: ArrayLike) -> Array:
    step = self.step[...]
    self.step[...] = step + 1
    epoch = jnp.floor(step / steps_per_epoch)
    return collaboration.consistency_ramp(epoch, length=length)


class _Gate(_Ramp):
  """A softmax over peers, after a ReLU as the authors have it."""

  def __init__(self, width: int, peers: int, rngs: nnx.Rngs):
    super().__init__()
    self.linear = layers.linear(width, peers, rngs=rngs)

  def __call__(self, rows: Array) -> Array:
    return jax.nn.softmax(jax.nn.relu(self.linear(rows)))


class _Attention(_Ramp):
  """Queries and keys of an eighth of the width."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    super().__init__()
    inner = max(width // 8, 1)
    self.query = layers.linear(width, inner, use_bias=False, rngs=rngs)
    self.key = layers.linear(width, inner, use_bias=False, rngs=rngs)

  def __call__(self, rows: Array) -> Array:
    return collaboration.okddip_attention(self.query(rows), self.key(rows))


def _embedding(outputs: Any, name: str) -> Any:
  return field_of(name, outputs[name], "embedding")
