"""Masks of valid tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

TokenMask = Bool[Array, "batch tokens"] | Integer[Array, "batch tokens"]


def valid_tokens(
  mask: Array | None, where: Array | None, values: Array
) -> Bool[Array, "batch tokens"]:
  """Returns which tokens of which examples count."""
  valid = jnp.ones(values.shape, bool) if mask is None else mask.astype(bool)
  return valid if where is None else valid & where[:, None]


def valid_pairs(
  mask: Array | None,
  where: Array | None,
  scores: Float[Array, "batch heads queries keys"],
) -> Bool[Array, "batch heads queries keys"]:
  """Returns which pairs of a query and a key count."""
  batch, _, queries, keys = scores.shape
  if mask is not None and queries != keys:
    raise ValueError(
      f"mask is given for {queries} queries and {keys} keys; expected as many."
    )
  key = valid_tokens(mask, where, scores[:, 0, 0, :])[:, None, None, :]
  query = (
    jnp.ones((batch, 1, queries, 1), bool)
    if mask is None
    else jnp.swapaxes(key, 2, 3)
  )
  return jnp.broadcast_to(query & key, scores.shape)
