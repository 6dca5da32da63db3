"""Kernels between the rows of two samples, and how their widths are chosen."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops import as_number
from kdjax.ops import check_choice
from kdjax.ops import check_integer
from kdjax.ops import check_positive
from kdjax.ops import gather_batch
from kdjax.ops import in_chunks
from kdjax.ops import mean_over_devices
from kdjax.ops import pairwise_squared_distances
from kdjax.ops import safe_sqrt
from kdjax.ops import sum_over_devices

KERNELS = ("gaussian", "laplacian", "linear", "polynomial")
RULES = ("mean", "distinct_mean", "median")
Widths = ArrayLike | Sequence[float] | None
_DEFAULT_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
_product = functools.partial(jnp.matmul, precision="highest")


class Sample(NamedTuple):
  """Rows, 0 where masked, and their mask, of this device."""

  rows: Float[Array, "rows dims"]
  mask: Float[Array, " rows"]


class Kernel(NamedTuple):
  """A sum of kernels of one kind: `weights[m] * k(rates[m], .)`."""

  kind: str
  rates: Float[Array, " kernels"]
  weights: Float[Array, " kernels"]
  offset: Float[Array, ""]
  degree: int

  def between(
    self, a: Float[Array, "n dims"], b: Float[Array, "m dims"]
  ) -> Float[Array, "n m"]:
    """Returns k(a_i, b_j) for all pairs."""
    if self.kind in ("linear", "polynomial"):
      return self._of(_product(a, b.T))
    return self._of(pairwise_squared_distances(a, b))

  def along(
    self, a: Float[Array, "n dims"], b: Float[Array, "n dims"]
  ) -> Float[Array, " n"]:
    """Returns k(a_i, b_i)."""
    if self.kind in ("linear", "polynomial"):
      return self._of(jnp.sum(a * b, 1))
    return self._of(jnp.sum(jnp.square(a - b), 1))

  def _of(self, x: Array) -> Array:
    """Applies the kernels to squared distances, or to inner products."""
    if self.kind == "laplacian":
      x = safe_sqrt(x)

    # Recomputed in the backward pass: one matrix is kept, not one a kernel.
    @jax.checkpoint
    def apply(x: Array, rates: Array, weights: Array, offset: Array) -> Array:
      values = jnp.zeros_like(x)
      for rate, weight in zip(rates, weights, strict=True):
        if self.kind == "linear":
          values += weight * x
        elif self.kind == "polynomial":
          values += weight * (rate * x + offset) ** self.degree
        else:
          values += weight * jnp.exp(-rate * x)
      return values

    return apply(x, self.rates, self.weights, self.offset)


def make_kernel(
  source: Sample,
  target: Sample,
  axis_name: str | None,
  *,
  kernel: str = "gaussian",
  bandwidth_factors: Widths = None,
  bandwidths: Widths = None,
  gammas: Widths = None,
  bandwidth_rule: str = "mean",
  kernel_weights: Widths = None,
  offset: ArrayLike = 2.0,
  degree: int = 2,
  chunk_size: int | None = None,
) -> Kernel:
  """Returns the kernel that the keywords of `mmd` describe."""
  check_choice("kernel", kernel, KERNELS)
  check_choice("bandwidth_rule", bandwidth_rule, RULES)
  check_integer("degree", degree, 1)
  dtype = source.rows.dtype
  widths = {
    "bandwidth_factors": bandwidth_factors,
    "bandwidths": bandwidths,
    "gammas": gammas,
  }
  given = {name: value for name, value in widths.items() if value is not None}
  if len(given) > 1:
    raise ValueError(f"got {' and '.join(given)}; expected one of them.")
  radial = kernel in ("gaussian", "laplacian")
  fallback = (
    ("bandwidth_factors", _DEFAULT_FACTORS) if radial else ("gammas", 1)
  )
  name, value = next(iter(given.items()), fallback)
  if not radial and name != "gammas":
    raise ValueError(f"{name} is given; a {kernel} kernel expected none.")
  check_positive(name, value)
  value = _vector(name, value, dtype)
  if name == "bandwidth_factors":
    scale = _scale(
      source, target, axis_name, kernel, bandwidth_rule, chunk_size
    )
    value = value * scale
  elif name == "bandwidths" and kernel == "gaussian":
    value = jnp.square(value)
  if name == "gammas":
    rates = value
  else:
    rates = 1 / (2 * value if kernel == "gaussian" else value)
  weights = jnp.ones_like(rates)
  if kernel_weights is not None:
    weights = _vector("kernel_weights", kernel_weights, dtype)
    if weights.shape not in ((1,), rates.shape):
      raise ValueError(
        f"kernel_weights has shape {weights.shape}; expected a number or one "
        f"a kernel, {rates.shape}."
      )
    weights = jnp.broadcast_to(weights, rates.shape)
  offset = as_number("offset", offset, dtype)
  return Kernel(kernel, rates, weights, offset, degree)


def _vector(name: str, value: Widths, dtype: jnp.dtype) -> Array:
  vector = jnp.atleast_1d(jnp.asarray(value, dtype))
  if vector.ndim > 1 or vector.size == 0:
    raise ValueError(
      f"{name} has shape {vector.shape}; expected a number or [kernels]."
    )
  return vector


@jax.default_matmul_precision("highest")
def _scale(
  source: Sample,
  target: Sample,
  axis_name: str | None,
  kernel: str,
  rule: str,
  chunk_size: int | None,
) -> Float[Array, ""]:
  """Returns the typical (squared) distance that the factors multiply."""
  source, target = jax.lax.stop_gradient((source, target))
  if rule == "median":
    value = _median(source, axis_name)
    value = value if kernel == "gaussian" else jnp.sqrt(value)
    return jnp.where(value > 0, value, 1.0)
  rows = jnp.concatenate([source.rows, target.rows])
  mask = jnp.concatenate([source.mask, target.mask])
  count = jnp.maximum(sum_over_devices(jnp.sum(mask), axis_name), 1)
  if kernel == "gaussian":
    # Over all ordered pairs, the mean squared distance is twice the mean
    # squared distance to the center: no matrix is needed.
    center = sum_over_devices(mask @ rows, axis_name) / count
    squares = jnp.sum(jnp.square(rows - center[None]), 1)
    value = 2 * sum_over_devices(mask @ squares, axis_name) / count
  else:
    others, of_others = (gather_batch(x, axis_name) for x in (rows, mask))

    def length_sums(rows: Array) -> Array:
      return safe_sqrt(pairwise_squared_distances(rows, others)) @ of_others

    sums = in_chunks(length_sums, rows, chunk_size)
    value = sum_over_devices(mask @ sums, axis_name) / jnp.square(count)
  if rule == "distinct_mean":
    value = value * count / jnp.maximum(count - 1, 1)
  return jnp.where(value > 0, value, 1.0)


def _median(sample: Sample, axis_name: str | None) -> Float[Array, ""]:
  """Returns the lower median of all squared distances, those of 0 included."""
  rows, mask = (gather_batch(x, axis_name) for x in sample)
  squares = pairwise_squared_distances(rows, rows)
  counted = (mask[:, None] * mask[None]) > 0
  ordered = jnp.sort(jnp.where(counted, squares, jnp.inf), axis=None)
  middle = (jnp.sum(counted, dtype=jnp.int32) - 1) // 2
  value = ordered[jnp.maximum(middle, 0)]
  # Equal on every device already, which the mean tells `jax.shard_map`.
  value = mean_over_devices(value, axis_name)
  return jnp.where(jnp.any(counted), value, 1.0)
