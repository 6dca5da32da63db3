"""Cross-view consistency regularization (CRLD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation.logits._soft_targets import soft_target_loss


@ops.validate
def crld_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  student_strong_logits: Float[Array, "*batch classes"],
  teacher_strong_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  weak_threshold: ArrayLike = 0.9,
  strong_threshold: ArrayLike = 0.2,
  within_weight: ArrayLike = 2.0,
  cross_weight: ArrayLike = 0.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Cross-view consistency distillation (CRLD): KL within and across views.

  .. math::
    \ell = T^2 \bigl( w_\mathrm{within} \,
      [\max p^T_w \ge \tau_w] \,
      (\mathrm{KL}(q^T_w \Vert q^S_w) + \mathrm{KL}(q^T_s \Vert q^S_s))
    + w_\mathrm{cross} \, [\max p^T_s \ge \tau_s] \,
      (\mathrm{KL}(q^T_w \Vert q^S_s) + \mathrm{KL}(q^T_s \Vert q^S_w)) \bigr)

  w and s are a weakly and a strongly augmented view of the same image; p is the
  softmax at temperature 1. A comparison enters the loss where the teacher's
  confidence reaches its threshold.

  Args:
    student_logits: the student's logits of the weak view, `[*batch, classes]`.
    teacher_logits: the teacher's logits of the weak view; they receive no
      gradient.
    student_strong_logits: the student's logits of the strong view.
    teacher_strong_logits: the teacher's logits of the strong view; they receive
      no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    weak_threshold: the teacher's least confidence in the weak view for the
      comparisons within a view, in [0, 1]. May be traced.
    strong_threshold: the teacher's least confidence in the strong view for the
      comparisons across views, like `weak_threshold`.
    within_weight: the weight of the comparisons within a view; a number, or one
      per example, as the thresholds are. May be traced.
    cross_weight: the weight of the comparisons across views, like
      `within_weight`.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 1, beside the sum of the
    two views' cross-entropies.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  The mean over the batch is the authors' value: it divides by the number of all
  examples, below the threshold or not.

  Examples:
    >>> sure, unsure = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> crld_loss(unsure, unsure, unsure, sure, temperature=1.0)
    Array([0.345...], dtype=float32)

  References:
    Zhang et al., `Cross-view consistency regularization for knowledge
    distillation <https://arxiv.org/abs/2412.16493>`_, 2024; code
    arcaninez/crld.
  """

  def confidence(logits: Array) -> Array:
    return ops.largest(ops.softened_softmax(logits), -1)

  def soft(student: Array, teacher: Array) -> Array:
    return soft_target_loss(
      student,
      teacher,
      temperature=temperature,
      stop_teacher_gradient=stop_teacher_gradient,
    )

  within = soft(student_logits, teacher_logits) + soft(
    student_strong_logits, teacher_strong_logits
  )
  cross = soft(student_strong_logits, teacher_logits) + soft(
    student_logits, teacher_strong_logits
  )
  rows, dtype = within.shape, within.dtype
  within *= ops.as_number("within_weight", within_weight, dtype, shape=rows)
  cross *= ops.as_number("cross_weight", cross_weight, dtype, shape=rows)
  weak = ops.as_fraction("weak_threshold", weak_threshold, dtype, shape=rows)
  strong = ops.as_fraction(
    "strong_threshold", strong_threshold, dtype, shape=rows
  )
  sure, strong_sure = map(confidence, (teacher_logits, teacher_strong_logits))
  values = jnp.where(sure >= weak, within, 0.0) + jnp.where(
    strong_sure >= strong, cross, 0.0
  )
  return ops.keep_nan(values, sure, strong_sure)
