"""Batches of several domains as one batch."""

import jax.numpy as jnp
from jaxtyping import Array


def flat(values: Array) -> Array:
  """The domains of `[domains, batch, ...]` one after the other."""
  return values.reshape(-1, *values.shape[2:])


def domain_ids(values: Array) -> Array:
  """The domain of each example of `[domains, batch, ...]`."""
  domains, batch = values.shape[:2]
  return jnp.broadcast_to(jnp.arange(domains)[:, None], (domains, batch))
