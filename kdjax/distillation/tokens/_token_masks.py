"""Masks of valid tokens and of valid pairs of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

TokenMask = Bool[Array, "batch tokens"] | Integer[Array, "batch tokens"]


def valid_tokens(
  mask: Array | None, where: Array | None, values: Array
) -> Bool[Array, "batch tokens"]:
  """Returns True for the valid tokens of unmasked examples."""
  valid = jnp.ones(values.shape, bool) if mask is None else mask.astype(bool)
  return valid if where is None else valid & where[:, None]


def valid_pairs(
  mask: Array | None,
  where: Array | None,
  scores: Float[Array, "batch heads queries keys"],
) -> Bool[Array, "batch heads queries keys"]:
  """Returns True for the pairs of a valid query and a valid key."""
  batch, _, queries, keys = scores.shape
  if mask is not None and queries != keys:
    raise ValueError(
      f"got a mask for {queries} queries and {keys} keys; expected equal "
      "numbers, or no mask."
    )
  key = valid_tokens(mask, where, scores[:, 0, 0, :])[:, None, None, :]
  query = (
    jnp.ones((batch, 1, queries, 1), bool)
    if mask is None
    else jnp.swapaxes(key, 2, 3)
  )
  return jnp.broadcast_to(query & key, scores.shape)
