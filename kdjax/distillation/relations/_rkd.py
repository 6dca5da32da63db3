"""Relational knowledge distillation (RKD): distances and angles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import Rows, batch_rows, pairs
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.relations._triplet_angles import angle_gaps

_ROWS_AT_ONCE = 16


@ops.validate
def rkd_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  distance_weight: ArrayLike = 25.0,
  angle_weight: ArrayLike = 50.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Relational knowledge distillation (RKD): equal distances and angles.

  .. math::
    \ell = w_D \operatorname*{mean}_{ij} h\Bigl(
        \frac{d^S_{ij}}{\bar d^S} - \frac{d^T_{ij}}{\bar d^T}\Bigr)
      + w_A \operatorname*{mean}_{ijk} h\bigl(
        \cos \angle^S_{jik} - \cos \angle^T_{jik}\bigr)

  where d is the Euclidean distance, with its mean over pairs of different
  examples; the angle is at example i between j and k; and h is the Huber
  function, x^2 / 2 up to 1 and |x| - 1/2 beyond.

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    distance_weight: the weight of distances. May be traced.
    angle_weight: the weight of angles. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split. The loss includes
      pairs and triplets across devices.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 1, with the defaults here, on the pooled
    embedding. As in all published codes, the means include degenerate pairs and
    triplets, whose value is 0. The value does not depend on the batch size.

  Raises:
    ValueError: if the batch sizes differ.
    TypeError: if the embeddings are not floating-point.

  As in published codes, equal points have distance 1e-6 and no gradient. Memory
  holds a few `[batch, batch]` matrices, never all triplets, in the backward
  pass too. Each device computes the angles at its own examples, from distances.

  Examples:
    >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{rkd_loss(points, 7.0 - 3.0 * points):.6f}")
    0.000000

  References:
    Park et al., `Relational knowledge distillation
    <https://arxiv.org/abs/1904.05068>`_, 2019.
  """
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student = batch_rows(student_embeddings, where, axis_name)
  teacher = batch_rows(teacher_embeddings, where, axis_name)
  pair = pairs(student_embeddings, where, axis_name)

  def distances(rows: Rows) -> Float[Array, "batch whole"]:
    return ops.in_chunks(
      functools.partial(_distances, rows.whole), rows.local, _ROWS_AT_ONCE
    )

  apart = pair.valid & ~pair.diagonal
  student_gaps, teacher_gaps = (
    jnp.where(apart, distances(rows), 0.0) for rows in (student, teacher)
  )

  def row_sums(function: Callable[[Array, Array], Any]) -> Any:
    def of_part(part: tuple[Array, Array, Array, Array]) -> Any:
      *gaps, rows, positions = part
      own = pair._replace(rows=rows, positions=positions)
      apart = own.valid & ~own.diagonal
      # Published codes give equal points the distance 1e-6.
      gaps = [jnp.where(apart, ops.at_least(x, 1e-6), 0.0) for x in gaps]
      return jax.tree.map(lambda x: jnp.sum(x, 1), function(*gaps))

    parts = student_gaps, teacher_gaps, pair.rows, pair.positions
    return ops.in_chunks(of_part, parts, _ROWS_AT_ONCE)

  count = jnp.sum(pair.columns, dtype=student_gaps.dtype)
  student_mean, teacher_mean = (
    ops.nonzero_divisor(
      ops.masked_mean(
        x / ops.nonzero_divisor(count - 1), where, axis_name=axis_name
      )
    )
    for x in row_sums(lambda *gaps: gaps)
  )
  distance_sums = row_sums(
    lambda student, teacher: _huber(
      student / student_mean - teacher / teacher_mean
    )
  )
  count = ops.nonzero_divisor(count)
  distance_loss = ops.masked_mean(
    distance_sums / count, where, axis_name=axis_name
  )
  angles = angle_gaps(
    pair.positions,
    ops.gather_batch(student_gaps, axis_name),
    ops.gather_batch(teacher_gaps, axis_name),
  )
  angle_loss = ops.sum_over_devices(
    angles / count / jnp.square(count), axis_name
  )
  return (
    ops.as_number("distance_weight", distance_weight, angles.dtype)
    * distance_loss
    + ops.as_number("angle_weight", angle_weight, angles.dtype) * angle_loss
  )


def _distances(
  whole: Float[Array, "whole dims"], rows: Float[Array, "rows dims"]
) -> Float[Array, "rows whole"]:
  """Returns distances from differences, which keep digits of close points."""
  return ops.safe_norm(rows[:, None] - whole[None])


def _huber(x: Array) -> Array:
  size = jnp.abs(x)
  return jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5)
