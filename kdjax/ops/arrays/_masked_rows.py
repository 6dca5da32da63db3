"""Masked rows and divisors that are not 0."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops.devices._collectives import gather_batch
from kdjax.ops.probabilities._softmax import compute_dtype


def zero_masked(
  x: Float[Array, "..."], where: Bool[Array, "..."] | None
) -> Float[Array, "..."]:
  """Returns x with 0 for masked entries.

  Zero masked entries before the computation: masking the loss afterwards gives
  NaN gradients if a masked entry is NaN. NaN in other entries remains.

  Args:
    x: any shape.
    where: True for the entries to use, of the shape of the leading axes of `x`;
      None for all.

  Returns:
    The shape of `x`.
  """
  if where is None:
    return x
  return jnp.where(jnp.expand_dims(where, range(where.ndim, x.ndim)), x, 0.0)


def masked_rows(
  rows: Float[Array, "..."],
  where: Bool[Array, "..."] | None,
  *,
  axes: int = 1,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Returns the rows, 0 where masked, and the mask as 0 and 1.

  Args:
    rows: any shape.
    where: True for the rows to use, of the shape of the leading axes; None for
      all.
    axes: the number of leading axes of the returned mask if `where` is None: 1
      for examples, 2 for domains and examples.

  Returns:
    The rows, in float32 or wider, and the mask in the same dtype.
  """
  rows = rows.astype(compute_dtype(rows))
  if where is None:
    return rows, jnp.ones(rows.shape[:axes], rows.dtype)
  return zero_masked(rows, where), where.astype(rows.dtype)


def gathered_rows(
  rows: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, "whole ..."], Float[Array, " whole"]]:
  """Returns `masked_rows` of all devices.

  Apply `mean_over_devices` to a loss computed from these rows.

  Args:
    rows: this device's rows, `[batch, ...]`.
    where: True for the rows to use; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[devices * batch, ...]`, and the mask `[devices * batch]`.
  """
  rows, mask = masked_rows(rows, where)
  return gather_batch(rows, axis_name), gather_batch(mask, axis_name)


def nonzero_divisor(x: Array) -> Array:
  """Returns x with 1 instead of 0, for quotients that are not used there.

  Args:
    x: any shape.

  Returns:
    The same shape.
  """
  return jnp.where(x == 0, 1.0, x)
