"""Mean teacher and pi-model: consistency with an averaged teacher."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.adaptation.self_training._confidence import is_confident
from kdjax.ops import as_number
from kdjax.ops import check_range
from kdjax.ops import compute_dtype
from kdjax.ops import softened_softmax
from kdjax.ops import validate

Tree = TypeVar("Tree")


@validate
def consistency_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  threshold: ArrayLike = 0.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Consistency of the mean teacher, the pi-model and self-ensembling.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau] \sum_c (p_{ic} - q_{ic})^2

  Args:
    student_logits: `[*batch, classes]`, of p.
    teacher_logits: `[*batch, classes]`, of q: from the averaged teacher on
      another view (mean teacher, self-ensembling) or from the student itself
      on another view (pi-model).
    threshold: tau in [0, 1] on the teacher's confidence, a scalar or one per
      row. May be traced. Self-ensembling: 0.968 (French), 0.95 (Dassl), 0.8
      (TLlib).
    stop_teacher_gradient: False lets both views learn.

  Returns:
    One value an example: the sum over classes (TLlib, Dassl), not their mean
    (the mean teacher's authors, so that weights carry over times the number
    of classes). Unsure examples are 0 and count in the mean over the batch.
    Published weights: 3 (self-ensembling in TLlib), 1 with a ramp (mean
    teacher in Dassl); TLlib's semi-supervised scripts take 0.1 times the sum,
    not the mean, over the batch.

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
  gap = softened_softmax(student_logits) - softened_softmax(teacher_logits)
  return jnp.where(confident, jnp.sum(jnp.square(gap), -1), 0.0)


def mean_teacher_update(
  teacher: Tree,
  student: Tree,
  *,
  decay: ArrayLike = 0.999,
  step: ArrayLike | None = None,
) -> Tree:
  r"""Mean teacher: the exponential moving average of the student.

  .. math::
    \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta, \qquad
    \alpha = \min\bigl(\alpha_0,\; 1 - 1 / (t + 1)\bigr)

  Args:
    teacher: a pytree of arrays, theta'. Keep it in float32 or wider: in
      bfloat16 the average would stand still.
    student: a pytree of the same structure. Parameters alone: statistics of
      batch normalization are the student's (TLlib copies them) or the
      teacher's own.
    decay: alpha_0 in [0, 1]. May be traced.
    step: t, the updates before this one; the first then copies the student.
      None for no correction. May be traced.

  Returns:
    The new teacher, in its own dtypes. Published decay: 0.999 (Dassl, TLlib).

  Raises:
    ValueError: if the structures differ or a static decay is outside [0, 1].

  `kdjax.training.parameter_ema` keeps one inside the optimizer.

  Examples:
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), decay=0.75))
    0.75
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), step=0))
    0.0

  References:
    Tarvainen and Valpola, `Mean teachers are better role models
    <https://arxiv.org/abs/1703.01780>`_, 2017.
  """
  check_range("decay", decay, 0.0, 1.0)
  alpha = as_number("decay", decay, float)
  if step is not None:
    alpha = jnp.minimum(alpha, 1 - 1 / (jnp.asarray(step, float) + 1))

  def average(old: Array, new: Array) -> Array:
    old, new = jnp.asarray(old), jnp.asarray(new)
    if not jnp.issubdtype(old.dtype, jnp.inexact):
      return new
    wide = jnp.promote_types(compute_dtype(old), compute_dtype(new))
    a = alpha.astype(wide)
    mixed = a * old.astype(wide) + (1 - a) * new.astype(wide)
    return mixed.astype(old.dtype)

  return jax.tree.map(average, teacher, student)
