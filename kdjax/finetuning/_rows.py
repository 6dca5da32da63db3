"""Examples and their classes: masked, over all devices, in static shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import gather_batch
from kdjax.ops._cross_entropy import check_labels
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import check_integer


def masked_rows(
  rows: Float[Array, "batch ..."], where: Bool[Array, " batch"] | None
) -> tuple[Float[Array, "batch ..."], Float[Array, " batch"]]:
  """Returns the rows, 0 where masked whatever they held, and the mask."""
  rows = rows.astype(compute_dtype(rows))
  if where is None:
    return rows, jnp.ones(rows.shape[:1], rows.dtype)
  keep = jnp.expand_dims(where, range(1, rows.ndim))
  return jnp.where(keep, rows, 0.0), where.astype(rows.dtype)


def whole_rows(
  rows: Float[Array, "batch ..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, "whole ..."], Float[Array, " whole"]]:
  """Returns the rows of all devices, and their mask."""
  rows, mask = masked_rows(rows, where)
  return gather_batch(rows, axis_name), gather_batch(mask, axis_name)


def everywhere(value: Array, axis_name: str | None) -> Array:
  """Returns what all devices computed alike, with the batch's gradient."""
  return value if axis_name is None else jax.lax.pmean(value, axis_name)


def class_count(
  function: str, labels: Int[Array, "..."], num_classes: int | None
) -> int | None:
  """Returns how many classes there are, None if that is not known."""
  if num_classes is not None:
    check_integer(f"{function}: num_classes", num_classes, 1)
    return int(num_classes)
  if isinstance(labels, jax.core.Tracer):
    return None
  # In NumPy: JAX would stage even known labels within a jitted function.
  return max(int(np.max(np.asarray(labels), initial=0)), 0) + 1


def class_members(
  function: str,
  labels: Int[Array, " batch"],
  num_classes: int | None,
  mask: Float[Array, " batch"],
) -> Float[Array, "batch classes"]:
  """Returns who belongs to which class: one-hot rows, 0 where masked.

  Without a number of classes, labels that are being traced are replaced by
  their rank: there cannot be more classes than examples.
  """
  classes = class_count(function, labels, num_classes)
  if classes is None:
    _, labels = jnp.unique(labels, return_inverse=True, size=labels.size)
    classes = labels.size
  labels = jnp.where(mask > 0, labels, 0)
  check_labels(labels, classes)
  return jax.nn.one_hot(labels, classes, dtype=mask.dtype) * mask[:, None]


def class_sums(
  function: str,
  rows: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  num_classes: int | None,
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, "classes dims"], Float[Array, " classes"]]:
  """Returns the sum of each class's rows over all devices, and their number."""
  classes = class_count(function, labels, num_classes)
  if classes is None:
    raise ValueError(
      f"{function}: num_classes is None; expected an integer, since the labels "
      "are traced and the result has a row for each class."
    )
  rows, mask = masked_rows(rows, where)
  members = class_members(function, labels, classes, mask)
  sums = jnp.matmul(members.T, rows, precision="highest")
  counts = jnp.sum(members, 0)
  if axis_name is not None:
    sums, counts = jax.lax.psum((sums, counts), axis_name)
  return sums, counts


def nonzero(x: Array) -> Array:
  """Returns x, or 1 where x is 0 and the quotient is 0 anyway."""
  return jnp.where(x == 0, 1.0, x)


@jax.custom_jvp
def with_gradient_of(value: Array, surrogate: Array) -> Array:
  """Returns the value, with the first derivatives of the surrogate.

  What a decomposition gives needs no derivative of the decomposition where
  its parts are stationary; that one is not finite for equal eigenvalues.
  """
  del surrogate
  return value


@with_gradient_of.defjvp
def _with_gradient_of_jvp(
  primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Any, Any]:
  return primals[0], tangents[1]
