"""Correlation congruence (CC)."""

import math

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import (
  Rows,
  batch_rows,
  pair_mean,
  pairs,
  products,
  unit_rows,
)
from kdjax.distillation._inputs import teacher_side


@ops.validate
def cc_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  gamma: ArrayLike = 0.4,
  order: int = 2,
  form: str = "kernel",
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Correlation congruence (CC): equal kernel matrices of the batch.

  .. math::
    k(x, y) = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!}
      \cos(x, y)^p, \qquad
    \ell_\text{kernel} = \operatorname*{mean}_{ij} (k^S_{ij} - k^T_{ij})^2

  where k is the Gaussian kernel of unit vectors, expanded to order P.

  .. math::
    \ell_\text{adjacent} = \operatorname*{mean}_i \sum_c
      \lvert x^S_i - x^T_i \rvert_c \, \lvert x^S_{i+1} - x^T_{i+1} \rvert_c

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    gamma: the rate of the kernel. May be traced. "adjacent" does not use it.
    order: the last power P of the expansion, 1 or more.
    form: "kernel" is the paper's formula, as in AberHu's
      Knowledge-Distillation-Zoo; it does not depend on the order of the
      examples. "adjacent" is RepDistiller's, received from the paper's authors:
      products of the gaps of consecutive examples, for embeddings of equal
      widths, without normalization.
    where: `[batch]`, True for the examples in the loss; None takes all. The
      unmasked examples count as consecutive.
    chunk_size: as in `pkt_loss`. "adjacent" has no matrix of pairs.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher. Both codes do
      so to train an embedding layer of the teacher, see `kdjax.methods.cc`.

  Returns:
    A scalar. Published weight: 0.02, for "adjacent" (RepDistiller). The value
    does not depend on the batch size.

  Raises:
    ValueError: if the batch sizes differ, or the widths for "adjacent"; if the
      form is unknown or the order is not positive.
    TypeError: if the embeddings are not floating-point.

  torchdistill divides the norm of the difference of the kernel matrices, not
  its square, by batch^2: its weight of 0.003 belongs to that scaling.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> cc_loss(rows, 3.0 * rows)
    Array(0., dtype=float32)

  References:
    Peng et al., `Correlation congruence for knowledge distillation
    <https://arxiv.org/abs/1904.01802>`_, 2019.
  """
  ops.check_choice("form", form, ("kernel", "adjacent"))
  ops.check_integer("order", order, 1)
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student = batch_rows(student_embeddings, where, axis_name)
  teacher = batch_rows(teacher_embeddings, where, axis_name)
  pair = pairs(student_embeddings, where, axis_name)
  if form == "adjacent":
    if student.local.shape != teacher.local.shape:
      raise ValueError(
        f"cc_loss: teacher_embeddings has shape {teacher.local.shape}; form "
        f"'adjacent' expects {student.local.shape}, as in "
        "student_embeddings."
      )
    gaps = ops.safe_abs(student.whole - teacher.whole)
    gaps = gaps[jnp.argsort(~pair.columns, stable=True)]
    following = jnp.arange(1, gaps.shape[0]) < jnp.sum(pair.columns)
    value = ops.masked_mean(jnp.sum(gaps[:-1] * gaps[1:], -1), following)
    # The value is equal on every device already; the mean makes the gradient
    # that of the whole batch.
    return ops.mean_over_devices(value, axis_name)

  def kernel(rows: Rows) -> Array:
    cosines = products(rows)
    rate = 2 * ops.as_number("gamma", gamma, cosines.dtype)
    # Power 0 is the same constant for both networks; without it, fewer digits
    # cancel.
    powers = sum(
      (rate * cosines) ** p / math.factorial(p) for p in range(1, order + 1)
    )
    return jnp.exp(-rate) * powers

  return pair_mean(
    lambda student, teacher, _: jnp.square(kernel(student) - kernel(teacher)),
    unit_rows(student),
    unit_rows(teacher),
    pair=pair,
    chunk_size=chunk_size,
    axis_name=axis_name,
  )
