"""Class-wise self-knowledge distillation (CS-KD)."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation.logits._soft_targets import soft_target_loss


@ops.validate
def cskd_loss(
  student_logits: Float[Array, "*batch classes"],
  student_partner_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Class-wise self-distillation (CS-KD): equal predictions within a class.

  .. math:: \ell = T^2 \, \mathrm{KL}(q(x') \Vert q(x)), \quad y' = y

  Args:
    student_logits: `[*batch, classes]`.
    student_partner_logits: the student's logits for a second example x' of the
      same class; they receive no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the second examples.

  Returns:
    One value an example, in nats. Published weight: 1, beside the
    cross-entropy (3 for fine-grained data).

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> cskd_loss(logits, logits)
    Array([0.], dtype=float32)

  References:
    Yun et al., `Regularizing class-wise predictions via self-knowledge
    distillation <https://arxiv.org/abs/2003.13964>`_, 2020; code alinlab/cs-kd.
  """
  return soft_target_loss(
    student_logits,
    student_partner_logits,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )
