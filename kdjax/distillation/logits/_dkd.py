"""Decoupled knowledge distillation (DKD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.logits._target_and_rest import one_hot, target_and_rest


@ops.validate
def dkd_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  temperature: ArrayLike = 4.0,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 8.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Decoupled knowledge distillation (DKD): target and non-target KL.

  .. math::
    \ell = T^2 \bigl[ \alpha \, \mathrm{KL}(b^T \Vert b^S)
           + \beta \, \mathrm{KL}(\hat q^T \Vert \hat q^S) \bigr], \quad
    b = [q_y, 1 - q_y], \quad \hat q_c = \frac{q_c}{1 - q_y}, \; c \ne y

  With alpha = 1 and beta = 1 - q^T_y the loss equals `soft_target_loss`. With
  two classes the second term is exactly 0.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    labels: class indices `[*batch]`. An index outside [0, classes) gives the
      value NaN and no gradient, so that a masked example may hold any index.
    temperature: T > 0; a number, or one per example. May be traced.
    alpha: the weight of the labeled class; a number, or one per example.
    beta: the weight of the other classes; a number, or one per example.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 1, beside 1 times the
    cross-entropy; the weight grows linearly over the first 20 epochs; beta
    depends on the pair of networks (CIFAR-100: 2, 6 or 8; ImageNet, at T = 1:
    0.5 or 2).

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point or the labels not integers.

  mdistiller takes the logarithm of the rounded 1 - q_y, which is infinite where
  the logits differ by 104 or more, and masks the labeled class by adding -1000.
  This code stays in log space; where mdistiller's value is finite, the two
  agree.

  Examples:
    >>> near, far = jnp.array([[0.0, 0.0]]), jnp.array([[-200.0, 0.0]])
    >>> dkd_loss(far, near, jnp.array([0]), temperature=1.0)
    Array([99.306854], dtype=float32)

  References:
    Zhao et al., `Decoupled knowledge distillation
    <https://arxiv.org/abs/2203.08679>`_, 2022.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(student_logits), ops.compute_dtype(teacher_logits)
  )
  student = student_logits.astype(dtype)
  teacher = teacher_side(teacher_logits.astype(dtype), stop_teacher_gradient)
  given, labels = labels, ops.check_labels(labels, student.shape[-1])
  others = ~one_hot(labels, student)
  among_others = ops.kl_divergence(
    student, teacher, temperature=temperature, where=others
  )
  of_target = _binary_kl(
    student, teacher, labels, others, among_others, temperature
  )
  rows = among_others.shape
  alpha = ops.as_number("alpha", alpha, dtype, shape=rows)
  beta = ops.as_number("beta", beta, dtype, shape=rows)
  scale = ops.as_number("temperature", temperature, dtype, shape=rows)
  values = jnp.square(scale) * (alpha * of_target + beta * among_others)
  return ops.mask_unknown_labels(values, given, student.shape[-1])


def _binary_kl(
  student: Array,
  teacher: Array,
  labels: Array,
  others: Array,
  among_others: Array,
  temperature: ArrayLike,
) -> Array:
  """Returns KL(b^T || b^S) of b = [q_y, 1 - q_y], one value an example.

  Where student and teacher are close, differences of logits keep more digits:
  with g_c = (z^S_c - z^T_c - z^S_y + z^T_y) / T, the log-odds change by -log E
  exp(g) = -(KL(others) + E g), in expectation over the teacher's other classes.
  """
  scale = ops.row_temperature(temperature, teacher, -1)
  own = labels[..., None]
  teacher_row = target_and_rest(teacher, own, others, scale)
  student_row = target_and_rest(student, own, others, scale)
  both = jnp.isfinite(student) & jnp.isfinite(teacher)
  gap = jnp.where(both, student, 0.0) - jnp.where(both, teacher, 0.0)
  gap = jnp.where(
    both & others, (gap - jnp.take_along_axis(gap, own, -1)) / scale, 0.0
  )
  weights = ops.softened_softmax(teacher, temperature=temperature, where=others)
  change = among_others + jnp.sum(weights * gap, -1)
  close = jnp.all(jnp.isfinite(teacher_row + student_row), -1)
  close &= (among_others < 1.0) & (jnp.abs(change) < 1.0)
  near_row = jnp.stack([teacher_row[..., 0], change], -1)
  return ops.kl_divergence(
    jnp.where(close[..., None], near_row, student_row), teacher_row
  )
