"""Marks of the classes of earlier tasks.

The marks are in the state, so that the next task does not compile again.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def marks(classes: ArrayLike) -> Array:
  """A mask of classes as numbers, which a state may hold."""
  return jnp.asarray(classes, float)


def past_mask(classes: Array, logits: Array) -> Array:
  """The mask `[classes]` of marks, or of one mark for all classes."""
  return jnp.broadcast_to(classes > 0.5, logits.shape[-1:])
