"""Examples and their classes, in static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops._collectives import sum_over_devices
from kdjax.ops._cross_entropy import check_labels
from kdjax.ops._masked_rows import masked_rows
from kdjax.ops._validation import check_integer


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


def class_one_hot(
  function: str,
  labels: Int[Array, " batch"],
  num_classes: int | None,
  mask: Float[Array, " batch"],
) -> Float[Array, "batch classes"]:
  """Returns who belongs to which class: one-hot rows, 0 where masked.

  Without a number of classes, labels that are being traced are replaced by
  their rank: there cannot be more classes than examples.

  Args:
    function: the name of the caller, for the message.
    labels: integers, `[batch]`.
    num_classes: the number of classes; None to count them.
    mask: 1 for examples that count, `[batch]`.

  Returns:
    `[batch, classes]`.
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
  """Returns the sum of each class's rows over all devices, and their number.

  Args:
    function: the name of the caller, for the message.
    rows: `[batch, dims]`.
    labels: integers, `[batch]`.
    num_classes: the number of classes; None to count them.
    where: which examples count; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The sums `[classes, dims]` and the counts `[classes]`.
  """
  classes = class_count(function, labels, num_classes)
  if classes is None:
    raise ValueError(
      f"{function}: num_classes is None; expected an integer, since the labels "
      "are traced and the result has a row for each class."
    )
  rows, mask = masked_rows(rows, where)
  members = class_one_hot(function, labels, classes, mask)
  sums = jnp.matmul(members.T, rows, precision="highest")
  return sum_over_devices((sums, jnp.sum(members, 0)), axis_name)
