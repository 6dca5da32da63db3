"""The schedule of the gradient reversal (DANN)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def reversal_ramp(progress: Array, sharpness: ArrayLike = 10.0) -> Array:
  """Returns 2 / (1 + exp(-sharpness progress)) - 1, without overflow.

  Args:
    progress: the fraction of the training that is done, in [0, 1].
    sharpness: above 0. May be traced.

  Returns:
    The factor of the gradient reversal, in [0, 1), of the shape of `progress`.

  References:
    Ganin and Lempitsky, `Unsupervised domain adaptation by backpropagation
    <https://arxiv.org/abs/1409.7495>`_, 2015.
  """
  return jnp.tanh(jnp.asarray(sharpness, float) * progress / 2)
