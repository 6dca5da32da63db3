"""Amalgamation: one student of several teachers with different classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.validate
def amalgamation_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Sequence[ArrayLike],
  teacher_classes: Sequence[ArrayLike],
  *,
  temperature: ArrayLike = 1.0,
) -> Float[Array, " batch"]:
  r"""Amalgamation of classifiers: each teacher answers for its own classes.

  .. math::
    \ell = \sum_k T^2 \, \mathrm{KL}\bigl(p_k \Vert
      \mathrm{softmax}(z_{\mathcal C_k} / T)\bigr)

  with the student's softmax over the classes of teacher k alone.

  Args:
    student_logits: `[batch, classes]`, of the union of all classes.
    teacher_logits: of each teacher `[batch, classes of k]`; no gradient.
    teacher_classes: of each teacher `[classes of k]`, integers: the student's
      class of each of the teacher's classes. Teachers may share classes.
    temperature: T > 0. May be traced.

  Returns:
    One value an example, a sum over teachers.

  Raises:
    ValueError: if there is no teacher, if the numbers of teachers or classes
      differ, or a known class is out of range or given twice.
    TypeError: if an array has a wrong dtype.

  The paper minimizes the cross-entropy at T = 1, which differs by the entropy
  of the teachers.

  Examples:
    >>> student = jnp.array([[1.0, 0.0, 5.0]])
    >>> teachers = [jnp.array([[3.0, 2.0]]), jnp.array([[4.0, -1.0]])]
    >>> classes = [jnp.array([0, 1]), jnp.array([2, 1])]
    >>> print(amalgamation_loss(student, teachers, classes))
    [0.]

  References:
    Vongkulbhisal, Vinayavekhin and Visentini-Scarzanella, `Unifying
    heterogeneous classifiers with distillation
    <https://arxiv.org/abs/1904.06062>`_, 2019.
  """
  count = len(teacher_logits)
  if not count or len(teacher_classes) != count:
    raise ValueError(
      f"amalgamation_loss: there are {count} teachers and "
      f"{len(teacher_classes)} lists of classes; expected as many, one or more."
    )
  student_logits = student_logits.astype(ops.compute_dtype(student_logits))
  scale = ops.as_number("temperature", temperature, student_logits.dtype)
  total = jnp.zeros(student_logits.shape[0], student_logits.dtype)
  for i, (logits, classes) in enumerate(
    zip(teacher_logits, teacher_classes, strict=True)
  ):
    teacher, index = _teacher(i, student_logits, logits, classes)
    student = jnp.take(student_logits, index, -1)
    total = total + ops.forward_kl(
      jax.lax.stop_gradient(teacher), student, temperature
    )
  return jnp.square(scale) * total


def _teacher(
  i: int, student: Array, logits: ArrayLike, classes: ArrayLike
) -> tuple[Float[Array, "batch own"], Int[Array, " own"]]:
  teacher, index = jnp.asarray(logits), jnp.asarray(classes)
  if not jnp.issubdtype(teacher.dtype, jnp.floating):
    raise TypeError(
      f"amalgamation_loss: teacher_logits[{i}] has dtype {teacher.dtype}; "
      "expected float."
    )
  if not jnp.issubdtype(index.dtype, jnp.integer):
    raise TypeError(
      f"amalgamation_loss: teacher_classes[{i}] has dtype {index.dtype}; "
      "expected int."
    )
  wanted = (student.shape[0], index.size)
  if index.ndim != 1 or teacher.shape != wanted:
    raise ValueError(
      f"amalgamation_loss: teacher_logits[{i}] has shape {teacher.shape} and "
      f"teacher_classes[{i}] {index.shape}; expected [batch, own] = {wanted} "
      "and [own]."
    )
  if not isinstance(index, jax.core.Tracer):
    known = np.asarray(index)
    inside = np.all((known >= 0) & (known < student.shape[1]))
    if not inside or len(set(known.tolist())) != known.size:
      raise ValueError(
        f"amalgamation_loss: teacher_classes[{i}] is {known.tolist()}; "
        f"expected different classes in [0, {student.shape[1]})."
      )
  return teacher, index
