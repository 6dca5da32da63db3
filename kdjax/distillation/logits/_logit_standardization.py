"""Logit standardization (LSKD)."""

import math

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation.logits._soft_targets import soft_target_loss


@ops.validate
def standardize_logits(
  logits: Float[Array, "*batch classes"], eps: ArrayLike = 1e-7
) -> Float[Array, "*batch classes"]:
  r"""Logit standardization: the Z-score of each row of logits.

  .. math::
    \frac{z - \operatorname{mean}(z)}{\operatorname{std}(z) + \epsilon}, \quad
    \operatorname{std}(z)^2 =
    \frac{1}{C - 1} \sum_c (z_c - \operatorname{mean}(z))^2

  Standardize the logits of student and teacher before any loss on logits.

  Args:
    logits: `[*batch, classes]`. A class with -inf is masked: it stays -inf and
      enters neither the mean nor the deviation.
    eps: epsilon, added to the deviation; equal logits become 0. May be traced.

  Returns:
    `[*batch, classes]`; float32 for half-precision logits.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> standardize_logits(jnp.array([1.0, 2.0, 3.0]))
    Array([-0.9999999,  0.       ,  0.9999999], dtype=float32)

  References:
    Sun et al., `Logit standardization in knowledge distillation
    <https://arxiv.org/abs/2403.01427>`_, 2024. The deviation divides by C - 1,
    as in the authors' code.
  """
  logits = logits.astype(ops.compute_dtype(logits))
  used = logits != -jnp.inf
  count = jnp.sum(used, -1, keepdims=True, dtype=logits.dtype)
  finite = jnp.where(used, logits, 0.0)
  mean = jnp.sum(finite, -1, keepdims=True) / jnp.maximum(count, 1.0)
  centered = jnp.where(used, finite - mean, 0.0)
  deviation = ops.safe_norm(centered, keepdims=True)
  deviation /= jnp.sqrt(jnp.maximum(count - 1.0, 1.0))
  ops.check_range("eps", eps, 0.0, math.inf)
  eps = ops.as_number("eps", eps, logits.dtype)
  return jnp.where(used, centered / (deviation + eps), -jnp.inf)


@ops.validate
def lskd_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 2.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Logit-standardized knowledge distillation (LSKD): KL of Z-scores.

  .. math::
    \ell = T^2 \, \mathrm{KL}(q^T \Vert q^S), \quad
    q = \mathrm{softmax}(Z(z) / T)

  where Z is `standardize_logits`. The student matches the teacher's logits up
  to a shift and a positive scale.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    temperature: the base temperature T > 0; a number, or one per example. May
      be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 9, beside 0.1 times the
    cross-entropy.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> print(f"{lskd_loss(2 * logits + 1, logits)[0]:.4f}")
    0.0000

  References:
    Sun et al., `Logit standardization in knowledge distillation
    <https://arxiv.org/abs/2403.01427>`_, 2024.
  """
  return soft_target_loss(
    standardize_logits(student_logits),
    standardize_logits(teacher_logits),
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )
