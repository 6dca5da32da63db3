"""The reduction over a batch, on one device or over many."""

import types
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import unsafe_get_axis_names_DO_NOT_USE as _axis_names
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Num, Shaped

from kdjax.ops._validation import validate

Tree = TypeVar("Tree")


@validate
def masked_mean(
  values: Num[Array, "..."],
  where: Bool[Array, "..."] | None = None,
  *,
  axis_name: str | tuple[str, ...] | None = None,
) -> Num[Array, ""]:
  r"""Masked mean: the only reduction of the library.

  .. math::
    \frac{\sum_d \sum_i m_{di} v_{di}}{\sum_d \sum_i m_{di}}

  over devices d, sums first and the division last: a mean of per-device means
  is wrong as soon as the masks differ.

  Args:
    values: any shape, one value an example or more.
    where: which values count; its shape is that of `values` or of its leading
      axes (an example mask `[batch]` for values `[batch, ...]`).
    axis_name: the mapped axis (or axes) that holds the rest of the batch.

  Returns:
    A scalar in float32 (float64 for float64 values); 0 with gradient 0 if
    nothing counts.

  Raises:
    ValueError: if the shape of `where` is not a prefix of that of `values`.

  Examples:
    >>> values = jnp.array([1.0, 3.0, 100.0])
    >>> masked_mean(values, jnp.array([True, True, False]))
    Array(2., dtype=float32)

  References:
    Scenic's `(sum, normalizer) metrics
    <https://github.com/google-research/scenic>`_ and the mean over devices of
    `jax.lax.psum <https://docs.jax.dev/en/latest/_autosummary/jax.lax.psum.html>`_.
  """
  values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
  if where is None:
    where = jnp.ones(values.shape, bool)
  if where.shape != values.shape[: where.ndim]:
    raise ValueError(
      f"masked_mean: where has shape {where.shape}; expected the shape of "
      f"values, {values.shape}, or its leading axes."
    )
  where = jnp.expand_dims(where, range(where.ndim, values.ndim))
  where = jnp.broadcast_to(where, values.shape)
  total = jnp.sum(jnp.where(where, values, 0.0))
  count = jnp.sum(where, dtype=values.dtype)
  if axis_name is not None:
    total, count = jax.lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1.0)


@validate
def gather_batch(
  x: Shaped[Array, "batch ..."], axis_name: str | None
) -> Shaped[Array, "gathered ..."]:
  """Batch gathering: concatenates the shards of a batch over a mapped axis.

  Differentiable. A batch-coupled loss computed from gathered arrays is the
  same on every device; end it with `jax.lax.pmean(loss, axis_name)` so that
  its gradient, averaged over devices, is that of the whole batch under
  `jax.vmap`, `jax.pmap` and `jax.shard_map` alike.

  Args:
    x: this device's part of the batch, `[batch, ...]`.
    axis_name: the mapped axis, or None for an array that is whole already.

  Returns:
    `[devices * batch, ...]` in device order, or `x` itself without a name.

  Raises:
    TypeError: if `x` is no array.

  Examples:
    >>> gather_batch(jnp.arange(3), None)
    Array([0, 1, 2], dtype=int32)

  References:
    `jax.lax.all_gather
    <https://docs.jax.dev/en/latest/_autosummary/jax.lax.all_gather.html>`_.
  """
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


def sum_over_devices(tree: Tree, axis_name: str | None) -> Tree:
  """Returns the sum over the devices of a mapped axis, if there is one.

  Args:
    tree: arrays of any shape.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The same tree, summed by `jax.lax.psum`.
  """
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def mean_over_devices(tree: Tree, axis_name: str | None) -> Tree:
  """Returns the mean over the devices of a mapped axis, if there is one.

  Of a value that all have computed from gathered rows: it is equal already,
  and the mean makes its gradient the batch's.

  Args:
    tree: arrays of any shape.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The same tree, averaged by `jax.lax.pmean`.
  """
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def same_everywhere(tree: Tree, axis_name: str | None) -> Tree:
  """Returns what every device has alike, or means of what differs.

  Means of floating-point numbers, such as batch statistics, and the largest of
  others, such as counts, whose mean is no integer.
  """
  if axis_name is None:
    return tree

  def leaf(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
      return jax.lax.pmean(x, axis_name)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = jax.lax.pmax(jax.random.key_data(x), axis_name)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if x.dtype == jnp.bool_:
      return jax.lax.pmax(x.astype(jnp.int32), axis_name).astype(bool)
    return jax.lax.pmax(x, axis_name)

  return jax.tree.map(leaf, tree)


# The default of a function that is told its axis where it is made or called.
UNTOLD = ...
AxisName = str | None | types.EllipsisType


def told_axis(name: str, axis_name: AxisName) -> str | None:
  """Returns the mapped axis, or raises ValueError if there is one untold.

  A function that does not know that it sees one device's part of a batch would
  compute other numbers than on the whole batch, without a word.
  """
  if not isinstance(axis_name, types.EllipsisType):
    return axis_name
  mapped: Sequence[object] = _axis_names()
  if not mapped:
    return None
  axis = mapped[-1]
  if not isinstance(axis, str) or axis.startswith("_"):
    fix = "axis_name=... in jax.pmap and here"
  else:
    fix = f"axis_name={axis!r}"
  raise ValueError(
    f"{name} is mapped over the axis {axis!r} and got no axis_name; expected "
    f"{fix}, if the batch is split over that axis, or axis_name=None, if each "
    "part of it is a student of its own."
  )


def gathered_positions(
  size: int, axis_name: str | None
) -> Int[Array, " batch"]:
  """Returns where this device's rows are in the gathered batch.

  Args:
    size: rows on this device.
    axis_name: the mapped axis, or None on one device.

  Returns:
    Indices into the gathered batch, `[size]`.
  """
  places = jnp.arange(size)
  if axis_name is None:
    return places
  return places + size * jax.lax.axis_index(axis_name)


def local_rows(
  whole: Shaped[Array, "gathered ..."], size: int, axis_name: str | None
) -> Shaped[Array, "batch ..."]:
  """Returns this device's part of a batch that all devices hold.

  Args:
    whole: the gathered batch, `[devices * size, ...]`.
    size: rows on this device.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[size, ...]`.
  """
  if axis_name is None:
    return whole
  start = size * jax.lax.axis_index(axis_name)
  return jax.lax.dynamic_slice_in_dim(whole, start, size)


def vary_like(x: ArrayLike, *others: ArrayLike) -> Array:
  """Lets `x` vary over the axes of `jax.shard_map` over which the others do.

  The gradient by what all devices share is summed over them, unasked. Where
  each device needs its own, what is shared is made to vary first.

  Args:
    x: an array.
    *others: the arrays whose axes `x` is to vary over.

  Returns:
    `x`, of equal value.
  """
  axes = frozenset().union(*map(_varying, others)) - _varying(x)
  x = jnp.asarray(x)
  return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


def _varying(x: ArrayLike) -> frozenset[str]:
  return jax.typeof(x).manual_axis_type.varying
