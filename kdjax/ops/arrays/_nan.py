"""Maxima and minima that keep NaN.

`jnp.max`, `jnp.maximum` and their like drop NaN on CPU where XLA vectorizes
their loop, so NaN of a diverged network would pass as a finite loss.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array


def largest(x: Array, axis: Any = None, **options: Any) -> Array:
  """Returns the maximum, NaN if an entry is NaN.

  Args:
    x: any shape.
    axis: as for `jnp.max`.
    **options: the keywords of `jnp.max`; entries outside `where` do not count.

  Returns:
    The result and the gradient of `jnp.max`, NaN where it reduces a NaN.
  """
  return jnp.max(x, axis, **options) + _nan_or_zero(x, axis, options)


def smallest(x: Array, axis: Any = None, **options: Any) -> Array:
  """Returns the minimum, NaN if an entry is NaN.

  Args:
    x: any shape.
    axis: as for `jnp.min`.
    **options: the keywords of `jnp.min`; entries outside `where` do not count.

  Returns:
    The result and the gradient of `jnp.min`, NaN where it reduces a NaN.
  """
  return jnp.min(x, axis, **options) + _nan_or_zero(x, axis, options)


def at_least(x: Array, low: ArrayLike) -> Array:
  """Returns max(x, low), NaN where x is NaN.

  Args:
    x: any shape.
    low: the bound.

  Returns:
    The result and the gradient of `jnp.maximum`.
  """
  return jnp.where(jnp.isnan(x), x, jnp.maximum(x, low))


def at_most(x: Array, high: ArrayLike) -> Array:
  """Returns min(x, high), NaN where x is NaN.

  Args:
    x: any shape.
    high: the bound.

  Returns:
    The result and the gradient of `jnp.minimum`.
  """
  return jnp.where(jnp.isnan(x), x, jnp.minimum(x, high))


def keep_nan(values: Array, *inputs: Array) -> Array:
  """Returns the values, NaN where an input is NaN.

  For values that are chosen by comparisons or indices, which lose NaN.

  Args:
    values: `[*rows]`, such as a scalar or one value an example.
    *inputs: `[*rows, ...]`; the other axes are reduced.

  Returns:
    `[*rows]`; the gradient is 0 where the value is NaN.
  """
  for x in inputs:
    lost = jnp.any(jnp.isnan(x), tuple(range(values.ndim, x.ndim)))
    values = jnp.where(lost, jnp.nan, values)
  return values


def any_nan(*inputs: Array) -> Array:
  """Returns whether an entry of any input is NaN.

  For results of a solver, whose stopping rule compares.

  Args:
    *inputs: any shapes.

  Returns:
    A scalar.
  """
  found = [jnp.any(jnp.isnan(x)) for x in inputs]
  return functools.reduce(jnp.logical_or, found)


def _nan_or_zero(x: Array, axis: Any, options: dict[str, Any]) -> Array:
  """Returns NaN where a reduced entry is NaN, and 0 elsewhere."""
  options = {k: v for k, v in options.items() if k != "initial"}
  lost = jnp.any(jnp.isnan(jax.lax.stop_gradient(x)), axis, **options)
  return jnp.where(lost, jnp.nan, 0.0).astype(x.dtype)
