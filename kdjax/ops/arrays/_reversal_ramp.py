"""The rise of an adversary's weight (DANN)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.ops.validation._checks import as_number
from kdjax.ops.validation._validation import validate


@validate
def reversal_ramp(progress: ArrayLike, *, sharpness: ArrayLike = 10.0) -> Array:
  r"""Reversal ramp (DANN): from 0 to 1, steeply at first.

  .. math:: \frac{2}{1 + e^{-a p}} - 1

  Args:
    progress: p, from 0 at the start of the training to 1 at its end.
    sharpness: a.

  Returns:
    An array of the shape of `progress`.

  Examples:
    >>> print(reversal_ramp(jnp.array([0.0, 0.1, 1.0])).round(3))
    [0.    0.462 1.   ]

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016, section 5.2.2.
  """
  # By a hyperbolic tangent, which does not overflow.
  progress = jnp.asarray(progress, float)
  scale = as_number("sharpness", sharpness, progress.dtype)
  return jnp.tanh(scale * progress / 2)
