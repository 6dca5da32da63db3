"""Max pooling with a fast gradient on a CPU.

For the gradient of a max pooling, XLA's CPU compiler visits the windows one by
one, which costs 20 to 30 times as much as comparisons of whole arrays.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array


def max_pool(
  inputs: Array,
  window: Sequence[int],
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
) -> Array:
  """Computes `nnx.max_pool`, faster on a CPU.

  Args:
    inputs: `[batch, height, width, channels]`.
    window: the height and width of a window.
    strides: the strides of both axes.
    padding: the padding of both axes, with -inf.

  Returns:
    `[batch, height, width, channels]`. The first of equal maxima gets the
    gradient.
  """
  if jax.default_backend() != "cpu":
    return nnx.max_pool(inputs, window, strides=strides, padding=padding)
  padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
  batch, height, width, channels = padded.shape

  def at(top: int, left: int) -> Array:
    """Returns the values at one position of every window."""
    bottom = height - window[0] + top + 1
    right = width - window[1] + left + 1
    return lax.slice(
      padded,
      (0, top, left, 0),
      (batch, bottom, right, channels),
      (1, *strides, 1),
    )

  def larger(best: Array, new: Array) -> Array:
    return jnp.where((new > best) | jnp.isnan(new), new, best)

  positions = itertools.product(*map(range, window))
  return functools.reduce(larger, itertools.starmap(at, positions))
