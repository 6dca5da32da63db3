"""Weighted soft labels (WSLD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def wsld_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Weighted soft-label distillation (WSLD): weights by the teacher's error.

  .. math::
    \ell = \Bigl(1 - \exp\Bigl(-\frac{H(y, p^S)}{H(y, p^T)}\Bigr)\Bigr)
           T^2 \, H(q^T, q^S)

  An example has a small weight if the teacher's cross-entropy exceeds the
  student's. The weight uses temperature 1 and receives no gradient.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    labels: class indices `[*batch]`, or probabilities `[*batch, classes]`.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 2.25 for CIFAR-100
    (cls_KD), 2.5 at temperature 2 for ImageNet, beside the cross-entropy.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  As in the authors' code, H(q^T, q^S) is the cross-entropy, not the KL
  divergence, so the loss of equal logits is not 0; and 1e-7 is added to the
  divisor. Where the teacher's logit of the label is -inf, the weight is 0.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0]])
    >>> wsld_loss(logits, logits, jnp.array([1]), temperature=1.0)
    Array([0.43815...], dtype=float32)

  References:
    Zhou et al., `Rethinking soft labels for knowledge distillation: a
    bias-variance tradeoff perspective <https://arxiv.org/abs/2102.00650>`_,
    2021; code bellymonster/Weighted-Soft-Label-Distillation.
  """
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  given, labels = labels, ops.check_labels(labels, student_logits.shape[-1])
  of_teacher = ops.cross_entropy(teacher_logits, labels) + 1e-7
  ratio = ops.cross_entropy(student_logits, labels) / of_teacher
  ratio = jnp.where(jnp.isposinf(of_teacher), 0.0, ratio)
  weight = jax.lax.stop_gradient(-jnp.expm1(-ratio))
  target = ops.softened_softmax(teacher_logits, temperature=temperature)
  log_student = ops.log_softened_softmax(
    student_logits, temperature=temperature
  )
  # A class with teacher probability 0 adds 0, even where log q^S is -inf.
  terms = target * jnp.where(target != 0, log_student, 0.0)
  scale = jnp.square(jnp.asarray(temperature, terms.dtype))
  values = -weight * scale * jnp.sum(terms, -1)
  return ops.mask_unknown_labels(values, given, student_logits.shape[-1])
