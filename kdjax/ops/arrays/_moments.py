"""Mean and covariance of a sample."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops.arrays._masked_rows import masked_rows
from kdjax.ops.devices._collectives import sum_over_devices
from kdjax.ops.validation._validation import validate


@validate
def mean_and_covariance(
  rows: Float[Array, "batch dims"],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, ""], Float[Array, " dims"], Float[Array, "dims dims"]]:
  """Returns count, mean and covariance of a batch over all devices.

  Args:
    rows: `[batch, dims]`.
    where: True for the rows to use; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The count, the mean `[dims]` and the covariance `[dims, dims]`, which
    divides by n - 1.
  """
  rows, mask = masked_rows(rows, where)
  count, sums = sum_over_devices((jnp.sum(mask), jnp.sum(rows, 0)), axis_name)
  mean = sums / jnp.maximum(count, 1)
  centered = mask[:, None] * (rows - mean[None])
  products = jnp.matmul(centered.T, centered, precision="highest")
  covariance = sum_over_devices(products, axis_name) / jnp.maximum(count - 1, 1)
  return count, mean, covariance
