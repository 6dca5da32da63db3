"""Pooling whose gradient a CPU computes as fast as its values.

XLA's CPU compiler visits the windows of a maximum's gradient one by one, at 20
to 30 times the cost of the comparisons that find it.
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
  """As `nnx.max_pool`; equal but for speed.

  Args:
    inputs: `[batch, height, width, channels]`.
    window: height and width.
    strides: of both axes.
    padding: of both axes, never the maximum.

  Returns:
    `[batch, height, width, channels]`. The first of equal maxima gets the
    gradient.
  """
  if jax.default_backend() != "cpu":
    return nnx.max_pool(inputs, window, strides=strides, padding=padding)
  padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
  batch, height, width, channels = padded.shape

  def at(top: int, left: int) -> Array:
    """Returns one position of every window."""
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
