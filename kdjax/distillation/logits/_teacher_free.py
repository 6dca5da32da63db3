"""Teacher-free regularization (Tf-KD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops


@ops.validate
def virtual_teacher_loss(
  student_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  temperature: ArrayLike = 20.0,
  correct_probability: ArrayLike = 0.99,
) -> Float[Array, "*batch"]:
  r"""Teacher-free regularization (Tf-KD_reg): a virtual teacher.

  .. math::
    \ell = \frac{1}{C} \mathrm{KL}(\mathrm{softmax}(u / T) \Vert p^S), \quad
    u_y = a, \; u_{c \ne y} = \frac{1 - a}{C - 1}

  Args:
    student_logits: `[*batch, classes]`; p^S is their softmax at temperature 1.
      A class with -inf is masked, for the virtual teacher too.
    labels: class indices `[*batch]`.
    temperature: T > 0 of the virtual teacher; a number, or one per example.
      May be traced.
    correct_probability: a in [0, 1], like `temperature`.

  Returns:
    One value an example, in nats. Published weight for ResNet-18 on CIFAR-100:
    10 (the authors' alpha 0.1 times their multiplier 100), beside 0.9 times the
    cross-entropy.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static probability is outside [0, 1].
    TypeError: if the logits are not floating-point or the labels not integers.

  As in the authors' code, the mean is over classes too. The probabilities u
  pass through a softmax as if they were logits, so that the virtual teacher is
  close to uniform.

  Examples:
    >>> loss = virtual_teacher_loss(jnp.zeros((1, 2)), jnp.array([0]))
    >>> print(f"{loss[0]:.1e}")
    1.5e-04

  References:
    Yuan et al., `Revisiting knowledge distillation via label smoothing
    regularization <https://arxiv.org/abs/1909.11723>`_, 2020; code
    yuanli2333/Teacher-free-Knowledge-Distillation.
  """
  given, labels = labels, ops.check_labels(labels, student_logits.shape[-1])
  dtype = ops.compute_dtype(student_logits)
  scale = ops.row_temperature(temperature, student_logits, -1)
  correct = ops.as_fraction(
    "correct_probability", correct_probability, dtype, shape=labels.shape
  )
  correct = jnp.broadcast_to(correct, labels.shape)[..., None]
  used = student_logits != -jnp.inf
  classes = jnp.sum(used, -1, dtype=dtype)
  others = jnp.maximum(classes - 1, 1.0)[..., None]
  own = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)
  teacher = jnp.where(own, correct, (1 - correct) / others)
  divergence = ops.kl_divergence(student_logits, teacher / scale, where=used)
  values = divergence / jnp.maximum(classes, 1.0)
  return ops.mask_unknown_labels(values, given, student_logits.shape[-1])
