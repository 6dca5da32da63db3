"""Pairs of gathered samples, Gaussian kernels and normalized weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops.arrays._distances import pairwise_squared_distances
from kdjax.ops.arrays._masked_rows import masked_rows
from kdjax.ops.devices._collectives import gather_batch, sum_over_devices
from kdjax.ops.probabilities._softmax import compute_dtype
from kdjax.ops.validation._checks import as_number, check_positive


class SamplePair(NamedTuple):
  """The rows of all devices, 0 where masked, and the masks as 0 and 1.

  Attributes:
    source: `[source, dims]`.
    source_mask: `[source]`, 1 for the rows to use.
    target: `[target, dims]`.
    target_mask: `[target]`, 1 for the rows to use.
  """

  source: Float[Array, "source dims"]
  source_mask: Float[Array, " source"]
  target: Float[Array, "target dims"]
  target_mask: Float[Array, " target"]


def as_sample_pair(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  where_source: Bool[Array, " source"] | None,
  where_target: Bool[Array, " target"] | None,
  axis_name: str | None,
) -> SamplePair:
  """Returns both samples, gathered over devices, in the wider of their dtypes.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`.
    where_source: True for the source rows to use; None for all.
    where_target: True for the target rows to use; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    A `SamplePair`.
  """
  dtype = jnp.promote_types(compute_dtype(source), compute_dtype(target))
  rows = (
    *masked_rows(source.astype(dtype), where_source),
    *masked_rows(target.astype(dtype), where_target),
  )
  return SamplePair(*(gather_batch(x, axis_name) for x in rows))


def weights_of_mean_one(
  values: Float[Array, " rows"],
  mask: Float[Array, " rows"],
  axis_name: str | None = None,
) -> Float[Array, " rows"]:
  """Returns weights scaled to mean 1 over the used rows, without gradient.

  If all weights are 0, all results are 1.

  Args:
    values: at least 0, `[rows]`.
    mask: 1 for the rows to use, else 0, `[rows]`.
    axis_name: the mapped axis, or None on one device.

  Returns:
    `[rows]`, 0 where masked.
  """
  values = jax.lax.stop_gradient(values * mask)
  sums, count = sum_over_devices((jnp.sum(values), jnp.sum(mask)), axis_name)
  empty = sums <= 0  # False for NaN, which must reach the caller
  return jnp.where(empty, mask, values * (count / jnp.where(empty, 1.0, sums)))


def gaussian_rate(
  gamma: ArrayLike | None, rows: Float[Array, "rows dims"]
) -> Float[Array, ""]:
  """Returns gamma of exp(-gamma d^2); 1 / dims, as in scikit-learn, for None.

  Args:
    gamma: above 0, or None.
    rows: the sample, `[rows, dims]`.

  Returns:
    A scalar.
  """
  if gamma is None:
    return jnp.asarray(1.0 / max(rows.shape[1], 1), rows.dtype)
  check_positive("gamma", gamma)
  return as_number("gamma", gamma, rows.dtype)


def gaussian_kernel(
  a: Float[Array, "n dims"],
  b: Float[Array, "m dims"],
  rate: Float[Array, ""],
) -> Float[Array, "n m"]:
  """Returns exp(-rate ||a_i - b_j||^2).

  Args:
    a: `[n, dims]`.
    b: `[m, dims]`.
    rate: gamma.

  Returns:
    `[n, m]`.
  """
  return jnp.exp(-rate * pairwise_squared_distances(a, b))
