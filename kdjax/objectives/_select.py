"""Selectors: which arrays of a student, a teacher and a batch a loss sees.

A selector is any function `(student, teacher, batch) -> arguments`; these are
the common ones by name.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from kdjax.nets import Outputs
from kdjax.objectives._stages import feature_of
from kdjax.objectives._stages import field_of
from kdjax.ops import get_entry

Selector = Callable[[Outputs, Any, Any], tuple[Any, ...]]


def select_logits(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array]:
  """Selects the logits of student and teacher.

  Args:
    student: the student's outputs.
    teacher: the teacher's outputs.
    batch: not used.

  Returns:
    The student's and the teacher's logits, `[batch, classes]` each.

  Examples:
    >>> student = Outputs(jnp.array([1.0]), {}, None)
    >>> teacher = Outputs(jnp.array([2.0]), {}, None)
    >>> select_logits(student, teacher, {})
    (Array([1.], dtype=float32), Array([2.], dtype=float32))

  References:
    The argument order of :mod:`kdjax.distillation`.
  """
  del batch
  return student.logits, teacher.logits


def select_logits_and_labels(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array, Array]:
  """Selects the logits of student and teacher and the labels.

  Args:
    student: the student's outputs.
    teacher: the teacher's outputs.
    batch: a mapping with `"label"`.

  Returns:
    The student's and the teacher's logits, `[batch, classes]` each, and the
    labels, `[batch]`.

  Raises:
    ValueError: if the batch has no label.

  Examples:
    >>> student = Outputs(jnp.array([1.0]), {}, None)
    >>> teacher = Outputs(jnp.array([2.0]), {}, None)
    >>> batch = {"label": jnp.array([3])}
    >>> [x.item() for x in select_logits_and_labels(student, teacher, batch)]
    [1.0, 2.0, 3]

  References:
    The argument order of :mod:`kdjax.distillation`.
  """
  labels = get_entry("select_logits_and_labels: batch", batch, "label")
  return student.logits, teacher.logits, labels


def select_supervised(
  student: Outputs, teacher: Outputs | None, batch: Any
) -> tuple[Array, Array]:
  """Selects the student's logits and the labels; there may be no teacher.

  Args:
    student: the student's outputs.
    teacher: not used.
    batch: a mapping with `"label"`.

  Returns:
    The student's logits, `[batch, classes]`, and the labels, `[batch]`.

  Raises:
    ValueError: if the batch has no label.

  Examples:
    >>> student = Outputs(jnp.array([1.0]), {}, None)
    >>> select_supervised(student, None, {"label": jnp.array([3])})
    (Array([1.], dtype=float32), Array([3], dtype=int32))

  References:
    The argument order of `optax.losses
    <https://optax.readthedocs.io/en/latest/api/losses.html>`_.
  """
  del teacher
  return student.logits, get_entry("select_supervised: batch", batch, "label")


def select_embeddings(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Any, Any]:
  """Selects the embeddings of student and teacher.

  Args:
    student: the student's outputs.
    teacher: the teacher's outputs.
    batch: not used.

  Returns:
    What the two classifier heads see, `[batch, width]` each.

  Raises:
    ValueError: if a network returns no embedding.

  Examples:
    >>> student = Outputs(jnp.zeros(2), {}, jnp.array([1.0]))
    >>> teacher = Outputs(jnp.zeros(2), {}, jnp.array([2.0]))
    >>> select_embeddings(student, teacher, {})
    (Array([1.], dtype=float32), Array([2.], dtype=float32))

  References:
    The argument order of :mod:`kdjax.distillation`.
  """
  del batch
  return (
    field_of("student", student, "embedding"),
    field_of("teacher", teacher, "embedding"),
  )


def select_features(student: str, teacher: str | None = None) -> Selector:
  """Builds a selector of one feature map of student and teacher each.

  Args:
    student: the name of the student's feature map.
    teacher: the name of the teacher's; the same one without it.

  Returns:
    A selector that returns the two maps, `[batch, height, width, channels]`;
    it raises ValueError if a network has none of that name.

  Examples:
    >>> select = select_features("stage1", "stage2")
    >>> student = Outputs(jnp.zeros(2), {"stage1": jnp.array([1.0])}, None)
    >>> teacher = Outputs(jnp.zeros(2), {"stage2": jnp.array([2.0])}, None)
    >>> select(student, teacher, {})
    (Array([1.], dtype=float32), Array([2.], dtype=float32))

  References:
    The argument order of :mod:`kdjax.distillation`.
  """
  teacher_name = student if teacher is None else teacher

  def select(
    student_outputs: Outputs, teacher_outputs: Outputs, batch: Any
  ) -> tuple[Array, Array]:
    del batch
    return (
      feature_of("student", student_outputs, student),
      feature_of("teacher", teacher_outputs, teacher_name),
    )

  return select
