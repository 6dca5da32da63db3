"""Masked means, sums and gathers over the devices of a mapped axis."""

import types
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import unsafe_get_axis_names_DO_NOT_USE as _axis_names
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Num, Shaped

from kdjax.ops.validation._validation import validate

Tree = TypeVar("Tree")


@validate
def masked_mean(
  values: Num[Array, "..."],
  where: Bool[Array, "..."] | None = None,
  *,
  axis_name: str | tuple[str, ...] | None = None,
) -> Num[Array, ""]:
  r"""Masked mean: averages values over a batch and over devices.

  .. math::
    \frac{\sum_d \sum_i m_{di} v_{di}}{\sum_d \sum_i m_{di}}

  over devices d. Numerator and denominator are summed over devices before the
  division: a mean of the devices' means is wrong if their masks differ.

  Args:
    values: any shape, one or more values an example.
    where: True for the values to use. Its shape is that of `values` or of the
      leading axes (an example mask `[batch]` for values `[batch, ...]`).
    axis_name: the mapped axis (or axes) that holds the rest of the batch.

  Returns:
    A scalar in float32 (float64 for float64 values); 0 with gradient 0 if
    all values are masked.

  Raises:
    ValueError: if the shape of `where` is not a prefix of the shape of
      `values`.

  Examples:
    >>> values = jnp.array([1.0, 3.0, 100.0])
    >>> masked_mean(values, jnp.array([True, True, False]))
    Array(2., dtype=float32)
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

  The function is differentiable. Every device computes the same batch-coupled
  loss from gathered arrays. Apply `jax.lax.pmean(loss, axis_name)` to it: then
  the gradient, averaged over devices, is the gradient of the whole batch under
  `jax.vmap`, `jax.pmap` and `jax.shard_map`.

  Args:
    x: this device's part of the batch, `[batch, ...]`.
    axis_name: the mapped axis; None on one device.

  Returns:
    `[devices * batch, ...]` in device order, or `x` if `axis_name` is None.

  Raises:
    TypeError: if `x` is not an array.

  Examples:
    >>> gather_batch(jnp.arange(3), None)
    Array([0, 1, 2], dtype=int32)
  """
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


def gather_replicated(
  x: Shaped[Array, "batch ..."], axis_name: str | None
) -> Shaped[Array, "gathered ..."]:
  """Gathers a batch, with a result that is known to be equal on all devices.

  `jax.shard_map` takes what is computed from `gather_batch` for different on
  each device. What is computed from this function, such as the state of a
  queue, can be returned with `out_specs=P()`. It moves twice as many bytes.

  Args:
    x: this device's part of the batch, `[batch, ...]`.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[devices * batch, ...]` in device order, or `x` if `axis_name` is None.
  """
  if axis_name is None:
    return x
  if x.dtype == jnp.bool_:
    return gather_replicated(x.astype(jnp.int8), axis_name).astype(bool)
  size = x.shape[0]
  whole = jnp.zeros(
    (size * jax.lax.axis_size(axis_name), *x.shape[1:]), x.dtype
  )
  start = size * jax.lax.axis_index(axis_name)
  whole = jax.lax.dynamic_update_slice_in_dim(
    vary_like(whole, x, start), x, start, 0
  )
  return jax.lax.psum(whole, axis_name)


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

  Apply it to a value that every device has computed from gathered rows. The
  value does not change; its gradient becomes that of the whole batch.

  Args:
    tree: arrays of any shape.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The same tree, averaged by `jax.lax.pmean`.
  """
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def replicate_over_devices(tree: Tree, axis_name: str | None) -> Tree:
  """Returns arrays with equal values on all devices.

  Args:
    tree: arrays of any shape.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The same tree: the mean over devices of floating-point arrays, such as batch
    statistics, and the maximum of other arrays, such as counts.
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


# The default of an `axis_name` that a function may also get where it is made.
UNKNOWN_AXIS = ...
AxisName = str | None | types.EllipsisType


def resolve_axis_name(name: str, axis_name: AxisName) -> str | None:
  """Returns the mapped axis, or raises if a mapped axis was not named.

  Without the name of the axis, a function on one device's part of a batch would
  compute other values than on the whole batch, without an error.

  Args:
    name: the name of the function, for the error message.
    axis_name: the mapped axis; None for one device; `UNKNOWN_AXIS` if the
      caller did not set it.

  Returns:
    The mapped axis, or None on one device.

  Raises:
    ValueError: if `axis_name` is unknown inside of a mapped function.
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
  """Returns the positions of this device's rows in the gathered batch.

  Args:
    size: the number of rows on this device.
    axis_name: the mapped axis, or None on one device.

  Returns:
    Indices into the gathered batch, `[size]`.
  """
  positions = jnp.arange(size)
  if axis_name is None:
    return positions
  return positions + size * jax.lax.axis_index(axis_name)


def local_rows(
  whole: Shaped[Array, "gathered ..."], size: int, axis_name: str | None
) -> Shaped[Array, "batch ..."]:
  """Returns this device's rows of a gathered batch.

  Args:
    whole: the gathered batch, `[devices * size, ...]`.
    size: the number of rows on this device.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[size, ...]`.
  """
  if axis_name is None:
    return whole
  start = size * jax.lax.axis_index(axis_name)
  return jax.lax.dynamic_slice_in_dim(whole, start, size)


def vary_like(x: ArrayLike, *others: ArrayLike) -> Array:
  """Marks `x` as varying over the `jax.shard_map` axes of other arrays.

  `jax.shard_map` sums the gradient by an array that all devices share. Mark the
  array as varying first if each device needs a gradient of its own.

  Args:
    x: an array.
    *others: arrays; `x` is to vary over their axes.

  Returns:
    `x`, with the same values.
  """
  axes = frozenset().union(*map(_varying, others)) - _varying(x)
  x = jnp.asarray(x)
  return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


def _varying(x: ArrayLike) -> frozenset[str]:
  return jax.typeof(x).manual_axis_type.varying
