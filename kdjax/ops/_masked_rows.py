"""Rows that count, whatever the masked ones hold, and safe divisors."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops._collectives import gather_batch
from kdjax.ops._softmax import compute_dtype


def zero_masked(
  x: Float[Array, "..."], where: Bool[Array, "..."] | None
) -> Float[Array, "..."]:
  """Returns x, 0 where masked: a mask on the loss leaves 0 times NaN behind.

  The mask has x's leading axes. NaN in what counts stays.

  Args:
    x: any shape.
    where: which entries count; None for all.

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
  """Returns the rows, 0 where masked, and the mask as numbers.

  The mask has the rows' leading axes; without one all of the first `axes`
  count: examples, or domains and their examples.

  Args:
    rows: any shape.
    where: which rows count; None for all.
    axes: how many leading axes the mask has if it is None.

  Returns:
    The rows in float32 at least, and the mask in their dtype.
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
  """Returns `masked_rows` of all devices; end with `mean_over_devices`.

  Args:
    rows: this device's rows, `[batch, ...]`.
    where: which of them count; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[devices * batch, ...]`, and the mask `[devices * batch]`.
  """
  rows, mask = masked_rows(rows, where)
  return gather_batch(rows, axis_name), gather_batch(mask, axis_name)


def nonzero_divisor(x: Array) -> Array:
  """Returns x, or 1 where x is 0 and nothing depends on the quotient.

  Args:
    x: any shape.

  Returns:
    The same shape.
  """
  return jnp.where(x == 0, 1.0, x)
