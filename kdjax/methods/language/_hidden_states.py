"""Hidden states and attention of transformers."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import nets


def hidden_states(
  name: str, student: nets.Outputs, teacher: nets.Outputs
) -> tuple[list[Any], list[Any]]:
  """Returns the hidden states of all layers, the embedding first."""
  sides = []
  for role, outputs in (("student", student), ("teacher", teacher)):
    hidden = list(outputs.features.values())
    if not outputs.scores or len(hidden) != len(outputs.scores) + 1:
      raise ValueError(
        f"{name}: {role} has no attention scores; expected a transformer, such "
        "as nets.TextEncoder."
      )
    sides.append(hidden)
  return sides[0], sides[1]


def layer_of(
  name: str, outputs: nets.Outputs, field: str, layer: int = -1
) -> Array:
  arrays = getattr(outputs, field)
  if not arrays:
    raise ValueError(
      f"{name}: a network has no {field}; expected a transformer, such as "
      "nets.TextEncoder."
    )
  return list(arrays.values())[layer]


def joined_heads(heads: Array) -> Array:
  """Returns `[batch, tokens, width]` of `[batch, heads, tokens, width]`."""
  batch, _, tokens, _ = heads.shape
  return jnp.swapaxes(heads, 1, 2).reshape(batch, tokens, -1)
