"""Transformed teacher matching (TTM) and its weighted form (WTTM)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.logits._ofa import as_rows


@ops.validate
def ttm_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  gamma: ArrayLike,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Transformed teacher matching (TTM): only the teacher is softened.

  .. math::
    \ell = \mathrm{KL}(p^{(\gamma)} \Vert q), \quad
    p^{(\gamma)}_c = \frac{p_c^\gamma}{\sum_k p_k^\gamma}

  The exponent gamma is the same as a teacher's temperature of 1 / gamma. The
  student keeps temperature 1, and there is no factor T^2.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    gamma: the exponent, > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 45 with gamma = 0.1, beside
    1 times the cross-entropy (CIFAR-100, vgg13 to vgg8).

  Raises:
    ValueError: if the shapes differ or a static gamma is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> ttm_loss(0.5 * logits, logits, gamma=0.5)
    Array([0.], dtype=float32)

  References:
    Zheng and Yang, `Knowledge distillation based on transformed teacher
    matching <https://arxiv.org/abs/2402.11148>`_, 2024.
  """
  teacher = teacher_side(teacher_logits, stop_teacher_gradient)
  return ops.kl_divergence(student_logits, _powers(teacher, gamma))


@ops.validate
def wttm_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  gamma: ArrayLike,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Weighted transformed teacher matching (WTTM): TTM, weighted by example.

  .. math::
    \ell = \Bigl( \sum_k p_k^\gamma \Bigr) \,
           \mathrm{KL}(p^{(\gamma)} \Vert q)

  The weight is the power sum of the teacher's probabilities: a smoother
  prediction has a larger weight.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    gamma: the exponent, > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 4 with gamma = 0.2, beside 1 times
    the cross-entropy (CIFAR-100, vgg13 to vgg8, where CRD is added).

  Raises:
    ValueError: if the shapes differ or a static gamma is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> value = wttm_loss(0.5 * logits, logits, gamma=0.5)
    >>> print(f"{value[0]:.4f}")
    0.0000

  References:
    Zheng and Yang, `Knowledge distillation based on transformed teacher
    matching <https://arxiv.org/abs/2402.11148>`_, 2024.
  """
  teacher = teacher_side(teacher_logits, stop_teacher_gradient)
  powers = _powers(ops.log_softened_softmax(teacher), gamma)
  return jnp.sum(jnp.exp(powers), -1) * ops.kl_divergence(
    student_logits, powers
  )


def _powers(logits: Array, gamma: ArrayLike) -> Array:
  """Returns gamma * logits, the logits of the powers of probabilities."""
  ops.check_positive("gamma", gamma)
  logits = logits.astype(ops.compute_dtype(logits))
  gamma = ops.as_number("gamma", gamma, logits.dtype, shape=logits.shape[:-1])
  used = logits != -jnp.inf  # 0 * inf would give gamma a NaN gradient
  return jnp.where(
    used, as_rows(gamma) * jnp.where(used, logits, 0.0), -jnp.inf
  )
