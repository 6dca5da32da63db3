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


def one_input(name: str, on: str | tuple[str, ...]) -> str:
  """The entry that the networks see; raises ValueError if there are several."""
  if not isinstance(on, str):
    raise ValueError(
      f"{name} changes the inputs of the batch; the learner's on is {on!r}; "
      'expected the name of one entry, such as on="image".'
    )
  return on
