"""The inputs and the outputs of networks of text."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.nets._outputs import Outputs, name_layers
from kdjax.nets.text._attention import AttentionOutputs


def read_inputs(
  inputs: Any, vocab_size: int, max_length: int, **given: Any
) -> tuple[Array, dict[str, Any]]:
  """Returns the tokens and the other inputs; the mask is bool, all by default.

  Raises:
    ValueError: if an entry is unknown or missing, a shape is wrong, or a text
      is longer than the network's positions.
    TypeError: if the tokens are not integers.
  """
  if isinstance(inputs, Mapping):
    if "tokens" not in inputs:
      raise ValueError(
        f"inputs has the entries {sorted(inputs)}; expected 'tokens' too."
      )
    for name in inputs:
      if name != "tokens":
        if name not in given:
          raise ValueError(
            f"inputs has the entry {name!r}; expected 'tokens' and any of "
            f"{sorted(given)}."
          )
        given[name] = inputs[name]
    inputs = inputs["tokens"]
  tokens = jnp.asarray(inputs)
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise TypeError(
      f"tokens has dtype {tokens.dtype}; expected integers in [0, "
      f"{vocab_size})."
    )
  if tokens.ndim != 2:
    raise ValueError(
      f"tokens has shape {tokens.shape}; expected [batch, length]."
    )
  if tokens.shape[1] > max_length:
    raise ValueError(
      f"tokens has shape {tokens.shape}; expected at most {max_length} "
      "positions, the network's max_length."
    )
  for name, value in given.items():
    if name != "cache" and value is not None:
      value = given[name] = jnp.asarray(value)
      if value.shape != tokens.shape:
        raise ValueError(
          f"{name} has shape {value.shape}; expected {tokens.shape}, as tokens."
        )
  mask = given["attention_mask"]
  given["attention_mask"] = (
    jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
  )
  return tokens, given


def look_up(table: Array, ids: Array, valid: Array) -> Array:
  """Returns rows of a table; NaN for the unknown id of a valid token.

  Indexing alone would take the last row for an id that is too large.
  """
  known = (ids >= 0) & (ids < table.shape[0])
  return jnp.where((known | ~valid)[..., None], table[ids], jnp.nan)


def text_outputs(
  logits: Any,
  features: Sequence[Array],
  embedding: Array,
  attention: Sequence[AttentionOutputs],
  **more: Any,
) -> Outputs:
  """Names the hidden states, and the arrays of each block as its result."""
  count = len(features)

  def named(field: str) -> dict[str, Any]:
    return name_layers(count, [getattr(x, field) for x in attention])

  return Outputs(
    logits=logits,
    features=name_layers(count, features),
    embedding=embedding,
    attention=named("probabilities"),
    scores=named("scores"),
    queries=named("queries"),
    keys=named("keys"),
    values=named("values"),
    **more,
  )
