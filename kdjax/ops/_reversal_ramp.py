"""The rise of an adversary's weight (DANN)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def reversal_ramp(progress: Array, sharpness: ArrayLike = 10.0) -> Array:
  """The rise of an adversary's weight over the training.

  Args:
    progress: of the training, in [0, 1].
    sharpness: of the rise.

  Returns:
    `2 / (1 + exp(-sharpness progress)) - 1`, without overflow.
  """
  return jnp.tanh(jnp.asarray(sharpness, float) * progress / 2)
