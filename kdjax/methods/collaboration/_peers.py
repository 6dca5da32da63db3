"""The roles `peer_0`, `peer_1` and so on of collaborative learning.

Each method includes the labels: the cross-entropy is summed over peers, as if
each were trained on its own.
"""

import re
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._stages import field_of

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


def select_peers(outputs: Any, labels: Array) -> tuple[Array, Array]:
  return peer_logits(outputs), labels


class Ramp(nnx.Module):
  """Counts its calls."""

  def __init__(self):
    self.step = nnx.Variable(jnp.zeros((), jnp.int32))

  def ramp(self, steps_per_epoch: int, length: ArrayLike) -> Array:
    step = self.step[...]
    self.step[...] = step + 1
    epoch = jnp.floor(step / steps_per_epoch)
    return collaboration.consistency_ramp(epoch, length=length)


def embedding_of(outputs: Any, name: str) -> Any:
  """The embedding of a peer."""
  return field_of(name, outputs[name], "embedding")
