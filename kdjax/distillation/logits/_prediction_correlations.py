"""Correlations between the predictions of a batch."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation._teacher_side import teacher_side
from kdjax.ops import gather_batch
from kdjax.ops import in_chunks
from kdjax.ops import safe_norm
from kdjax.ops import softened_softmax
from kdjax.ops import sum_over_devices
from kdjax.ops import unit_vectors
from kdjax.ops import zero_masked


def predictions(
  student_logits: Array,
  teacher_logits: Array,
  where: Array | None,
  temperature: ArrayLike,
  stop_teacher_gradient: bool,
) -> tuple[Array, Array, Array]:
  """Returns both sides' probabilities, 0 in rows that do not count."""
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  keep = jnp.ones(len(student_logits), bool) if where is None else where
  student, teacher = (
    zero_masked(
      softened_softmax(zero_masked(logits, where), temperature=temperature),
      where,
    )
    for logits in (student_logits, teacher_logits)
  )
  dtype = jnp.promote_types(student.dtype, teacher.dtype)
  return student.astype(dtype), teacher.astype(dtype), keep


def correlation_gap(a: Array, b: Array, weight: ArrayLike = 1.0) -> Array:
  """Returns 1 - a b / (|a| |b| + 1e-8) of centered rows.

  As half the squared distance of the unit vectors, which does not cancel.
  """
  weight = jnp.broadcast_to(jnp.asarray(weight, a.dtype), a.shape)
  count = jnp.maximum(jnp.sum(weight, -1, keepdims=True), 1.0)

  def centred(x: Array) -> Array:
    return weight * (x - jnp.sum(weight * x, -1, keepdims=True) / count)

  a, b = centred(a), centred(b)
  product = safe_norm(a) * safe_norm(b)
  distance = 0.5 * jnp.sum(jnp.square(unit_vectors(a) - unit_vectors(b)), -1)
  return (product * distance + 1e-8) / (product + 1e-8)


def class_gaps(student: Array, teacher: Array, axis_name: str | None) -> Array:
  """Returns the class-level term's share of each class, `[classes]`."""
  gap = student - teacher
  # S'S - T'T, as products with S - T that keep its digits.
  gram = jnp.matmul(student.T, gap, precision="highest")
  gram += jnp.matmul(gap.T, teacher, precision="highest")
  gram = sum_over_devices(gram, axis_name)
  return jnp.sum(jnp.square(gram), 0) / student.shape[-1]


def batch_gaps(
  student: Array, teacher: Array, axis_name: str | None, chunk_size: int | None
) -> Array:
  """Returns the sum over the whole batch for each example of this device."""
  gap = student - teacher
  all_gaps = gather_batch(gap, axis_name)
  all_teachers = gather_batch(teacher, axis_name)

  def row_sums(part: tuple[Array, Array]) -> Array:
    student, gap = part
    gram = jnp.matmul(student, all_gaps.T, precision="highest")
    gram += jnp.matmul(gap, all_teachers.T, precision="highest")
    return jnp.sum(jnp.square(gram), -1)

  return in_chunks(row_sums, (student, gap), chunk_size)
