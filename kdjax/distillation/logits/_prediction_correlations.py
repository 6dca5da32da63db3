"""Correlation and Gram matrices of a batch of predictions (DIST, MLLD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.distillation._inputs import teacher_side


def predictions(
  student_logits: Array,
  teacher_logits: Array,
  where: Array | None,
  temperature: ArrayLike,
  stop_teacher_gradient: bool,
) -> tuple[Array, Array, Array]:
  """Returns both probabilities, 0 in masked rows, and the mask."""
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  keep = jnp.ones(student_logits.shape[:1], bool) if where is None else where
  student, teacher = (
    ops.zero_masked(
      ops.softened_softmax(
        ops.zero_masked(logits, where), temperature=temperature
      ),
      where,
    )
    for logits in (student_logits, teacher_logits)
  )
  dtype = jnp.promote_types(student.dtype, teacher.dtype)
  return student.astype(dtype), teacher.astype(dtype), keep


def correlation_gap(a: Array, b: Array, weight: ArrayLike = 1.0) -> Array:
  """Returns 1 - a b / (|a| |b| + 1e-8) of centered rows.

  Half the squared distance of the unit vectors keeps the digits that 1 - cos
  would cancel.
  """
  weight = jnp.broadcast_to(jnp.asarray(weight, a.dtype), a.shape)
  count = jnp.maximum(jnp.sum(weight, -1, keepdims=True), 1.0)

  def centered(x: Array) -> Array:
    return weight * (x - jnp.sum(weight * x, -1, keepdims=True) / count)

  a, b = centered(a), centered(b)
  product = ops.safe_norm(a) * ops.safe_norm(b)
  distance = 0.5 * jnp.sum(
    jnp.square(ops.unit_vectors(a) - ops.unit_vectors(b)), -1
  )
  return (product * distance + 1e-8) / (product + 1e-8)


def class_gaps(student: Array, teacher: Array, axis_name: str | None) -> Array:
  """Returns each class's summand of the class-level term, `[classes]`."""
  gap = student - teacher
  # S'S - T'T = S'(S - T) + (S - T)'T keeps the digits of S - T.
  gram = jnp.matmul(student.T, gap, precision="highest")
  gram += jnp.matmul(gap.T, teacher, precision="highest")
  gram = ops.sum_over_devices(gram, axis_name)
  return jnp.sum(jnp.square(gram), 0) / student.shape[-1]


def batch_gaps(
  student: Array, teacher: Array, axis_name: str | None, chunk_size: int | None
) -> Array:
  """Returns each local example's summand of the batch-level term, `[batch]`."""
  gap = student - teacher
  all_gaps = ops.gather_batch(gap, axis_name)
  all_teachers = ops.gather_batch(teacher, axis_name)

  def row_sums(part: tuple[Array, Array]) -> Array:
    student, gap = part
    gram = jnp.matmul(student, all_gaps.T, precision="highest")
    gram += jnp.matmul(gap, all_teachers.T, precision="highest")
    return jnp.sum(jnp.square(gram), -1)

  return ops.in_chunks(row_sums, (student, gap), chunk_size)
