"""Mean teacher and pi-model: consistency loss and averaged teacher."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from kdjax import ops
from kdjax.adaptation.self_training._confidence import is_confident


@ops.validate
def consistency_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  threshold: ArrayLike = 0.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Consistency loss (mean teacher, pi-model, self-ensembling).

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau] \sum_c (p_{ic} - q_{ic})^2

  Args:
    student_logits: `[*batch, classes]`, the logits of p.
    teacher_logits: `[*batch, classes]`, the logits of q for another view: of
      the averaged teacher (mean teacher, self-ensembling) or of the student
      (pi-model).
    threshold: tau in [0, 1], the least confidence of the teacher, a scalar or
      one per row. May be traced. Self-ensembling: 0.968 (French), 0.95 (Dassl),
      0.8 (TLlib).
    stop_teacher_gradient: whether the teacher logits get no gradient.

  Returns:
    One value an example: the sum over classes (TLlib, Dassl). The authors of
    the mean teacher have the mean over classes; divide their weight by the
    number of classes. The value is 0 below the threshold, and the mean over the
    batch includes it. Published weights: 3 (self-ensembling in TLlib), 1 with a
    ramp (mean teacher in Dassl). TLlib's semi-supervised scripts have 0.1 times
    the sum, not the mean, over the batch.

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  Examples:
    >>> a, b = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> consistency_loss(a, b)
    Array([2.], dtype=float32)

  References:
    Tarvainen and Valpola, `Mean teachers are better role models
    <https://arxiv.org/abs/1703.01780>`_, 2017; Laine and Aila, `Temporal
    ensembling <https://arxiv.org/abs/1610.02242>`_, 2017 (the pi-model);
    French et al., `Self-ensembling for visual domain adaptation
    <https://arxiv.org/abs/1706.05208>`_, 2018.
  """
  if stop_teacher_gradient:
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
  confident = is_confident(jax.lax.stop_gradient(teacher_logits), threshold)
  gap = ops.softened_softmax(student_logits) - ops.softened_softmax(
    teacher_logits
  )
  values = jnp.where(confident, jnp.sum(jnp.square(gap), -1), 0.0)
  return ops.keep_nan(values, teacher_logits)


@ops.validate
def mean_teacher_update(
  teacher: PyTree,
  student: PyTree,
  *,
  decay: ArrayLike = 0.999,
  step: ArrayLike | None = None,
) -> PyTree:
  r"""Mean teacher: exponential moving average of the student.

  .. math::
    \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta, \qquad
    \alpha = \min\bigl(\alpha_0,\; 1 - 1 / (t + 1)\bigr)

  Args:
    teacher: theta', a pytree of arrays in float32 or wider: in bfloat16 small
      updates are rounded to 0.
    student: theta, a pytree of the same structure, without the statistics of
      batch normalization. For the statistics, copy the student's (TLlib) or
      compute the teacher's.
    decay: alpha_0 in [0, 1]. May be traced.
    step: t, the number of earlier updates; the first update then copies the
      student. None: alpha = alpha_0. May be traced.

  Returns:
    The new teacher, in the dtypes of the old one. Published decay: 0.999
    (Dassl, TLlib).

  Raises:
    ValueError: if the structures differ or a static decay is outside [0, 1].

  `kdjax.methods.parameter_ema` keeps an average in the optimizer state.

  Examples:
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), decay=0.75))
    0.75
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), step=0))
    0.0

  References:
    Tarvainen and Valpola, `Mean teachers are better role models
    <https://arxiv.org/abs/1703.01780>`_, 2017.
  """
  ops.check_range("decay", decay, 0.0, 1.0)
  found, expected = jax.tree.structure(student), jax.tree.structure(teacher)
  if found != expected:
    raise ValueError(
      f"mean_teacher_update: student has the structure {found}; expected "
      f"{expected}, that of teacher."
    )
  alpha = ops.as_number("decay", decay, float)
  if step is not None:
    alpha = jnp.minimum(alpha, 1 - 1 / (jnp.asarray(step, float) + 1))

  def average(old: Array, new: Array) -> Array:
    old, new = jnp.asarray(old), jnp.asarray(new)
    if not jnp.issubdtype(old.dtype, jnp.inexact):
      return new
    wide = jnp.promote_types(ops.compute_dtype(old), ops.compute_dtype(new))
    a = alpha.astype(wide)
    mixed = a * old.astype(wide) + (1 - a) * new.astype(wide)
    return mixed.astype(old.dtype)

  return jax.tree.map(average, teacher, student)
