"""One-hot rows and sums of classes, in static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops.arrays._masked_rows import masked_rows
from kdjax.ops.devices._collectives import sum_over_devices
from kdjax.ops.probabilities._cross_entropy import one_hot_labels
from kdjax.ops.validation._checks import check_integer
from kdjax.ops.validation._validation import validate


def class_count(
  function: str, labels: Int[Array, "..."], num_classes: int | None
) -> int | None:
  """Returns the number of classes, None if the labels are traced."""
  if num_classes is not None:
    check_integer(f"{function}: num_classes", num_classes, 1)
    return int(num_classes)
  if isinstance(labels, jax.core.Tracer):
    return None
  # NumPy, because JAX would trace even known labels in a jitted function.
  return max(int(np.max(np.asarray(labels), initial=0)), 0) + 1


def class_one_hot(
  function: str,
  labels: Int[Array, " batch"],
  num_classes: int | None,
  mask: Float[Array, " batch"],
) -> Float[Array, "batch classes"]:
  """Returns one-hot rows of the labels, 0 where masked.

  If `num_classes` is None and the labels are traced, the ranks of the labels
  replace the labels: there are at most as many classes as examples.

  Args:
    function: the name of the caller, for error messages.
    labels: integers, `[batch]`.
    num_classes: the number of classes; None for the largest label plus 1.
    mask: 1 for the examples to use, else 0, `[batch]`.

  Returns:
    `[batch, classes]`; a row is NaN if its label is out of range.
  """
  classes = class_count(function, labels, num_classes)
  if classes is None:
    known = labels >= 0
    _, labels = jnp.unique(labels, return_inverse=True, size=labels.size)
    classes = labels.size
    labels = jnp.where(known, labels, -1)
  return one_hot_labels(labels, classes, mask.dtype, mask)


@validate
def class_sums(
  function: str,
  rows: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  num_classes: int | None,
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> tuple[Float[Array, "classes dims"], Float[Array, " classes"]]:
  """Returns the sums and the numbers of rows of each class over all devices.

  Args:
    function: the name of the caller, for error messages.
    rows: `[batch, dims]`.
    labels: integers, `[batch]`.
    num_classes: the number of classes; None for the largest label plus 1.
    where: True for the examples to use; None for all.
    axis_name: the mapped axis, or None on one device.

  Returns:
    The sums `[classes, dims]` and the counts `[classes]`.
  """
  classes = class_count(function, labels, num_classes)
  if classes is None:
    raise ValueError(
      f"{function}: num_classes is None; expected an integer, because the "
      "labels are traced and the result has one row for each class."
    )
  rows, mask = masked_rows(rows, where)
  members = class_one_hot(function, labels, classes, mask)
  sums = jnp.matmul(members.T, rows, precision="highest")
  return sum_over_devices((sums, jnp.sum(members, 0)), axis_name)
