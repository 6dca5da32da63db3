"""Batches of several domains as one batch."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def flat(values: Array) -> Array:
  """The domains of `[domains, batch, ...]` one after the other."""
  return values.reshape(-1, *values.shape[2:])


def domain_ids(values: Array) -> Array:
  """The domain of each example of `[domains, batch, ...]`."""
  domains, batch = values.shape[:2]
  return jnp.broadcast_to(jnp.arange(domains)[:, None], (domains, batch))


def check_one_input(name: str, on: Any) -> None:
  """Raises ValueError unless the networks see one entry of the batch."""
  if not isinstance(on, str):
    raise ValueError(
      f"{name} changes the inputs of the batch; the learner's on is {on!r}; "
      'expected the name of one entry, such as on="image".'
    )
