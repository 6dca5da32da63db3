"""Knowledge distillation (KD), its soft-target term and logit regression."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.logits._mixtures import mix


@ops.validate
def soft_target_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Soft-target loss: the student matches the teacher's softened softmax.

  .. math::
    \ell = T^2 \, \mathrm{KL}(q^T \Vert q^S), \quad
    q = \mathrm{softmax}(z / T)

  The factor T^2 keeps the size of the gradient when the temperature changes. As
  T grows, the gradient tends to that of half the squared distance between the
  centered logits, divided by the number of classes.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    temperature: T > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 0.9, beside 0.1 times the
    cross-entropy (RepDistiller), see `kd_loss`.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  RepDistiller's and mdistiller's value is the mean of this loss over the batch
  (PyTorch's "batchmean"). A code that also averages over classes gives a value
  smaller by the number of classes.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> soft_target_loss(logits, logits)
    Array([0.], dtype=float32)

  References:
    Hinton, Vinyals and Dean, `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015.
  """
  divergence = ops.kl_divergence(
    student_logits,
    teacher_side(teacher_logits, stop_teacher_gradient),
    temperature=temperature,
  )
  return jnp.square(jnp.asarray(temperature, divergence.dtype)) * divergence


@ops.validate
def kd_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  alpha: ArrayLike = 0.9,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Knowledge distillation (KD): soft targets and labels together.

  .. math::
    L_\mathrm{KD} = \alpha T^2 \, \mathrm{KL}(q^T \Vert q^S)
                    + (1 - \alpha) \, H(y, q^S)

  where the cross-entropy H uses the student at temperature 1.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    labels: class indices `[*batch]`, or probabilities `[*batch, classes]`
      (mixup, label smoothing). An index outside [0, classes) gives the value
      NaN and no gradient, so that a masked example may hold any index.
    temperature: T > 0; a number, or one per example. May be traced.
    alpha: the weight of the soft targets, in [0, 1]; a number, or one per
      example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static alpha is outside [0, 1].
    TypeError: if the logits are not floating-point.

  The defaults are RepDistiller's for CIFAR-100. Published codes disagree on
  which term alpha weighs (torchdistill's and gnosis's alpha weighs the labels);
  here alpha weighs the soft targets.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0]])
    >>> kd_loss(logits, logits, jnp.array([1]), alpha=0.5)
    Array([0.34657...], dtype=float32)

  References:
    Hinton, Vinyals and Dean, `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015.
  """
  soft = soft_target_loss(
    student_logits,
    teacher_logits,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )
  hard = ops.cross_entropy(student_logits, labels)
  return mix("alpha", alpha, soft, hard)


@ops.validate
def logit_mse_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Logit regression: mean squared difference of the logits.

  .. math::
    \ell = \frac{1}{C} \sum_c (z^S_c - z^T_c)^2

  Unlike `soft_target_loss` at a high temperature, this loss also matches the
  common offset of the logits.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. A class with -inf on both sides adds 0.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the logits are not floating-point.

  The loss is the mean over classes, as in published PyTorch code
  (Knowledge-Distillation-Zoo); the paper has half the sum.

  Examples:
    >>> logit_mse_loss(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]]))
    Array([2.], dtype=float32)

  References:
    Ba and Caruana, `Do deep nets really need to be deep?
    <https://arxiv.org/abs/1312.6184>`_, 2014.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(student_logits), ops.compute_dtype(teacher_logits)
  )
  student_logits = student_logits.astype(dtype)
  teacher_logits = teacher_side(
    teacher_logits.astype(dtype), stop_teacher_gradient
  )
  masked = jnp.isneginf(student_logits) & jnp.isneginf(teacher_logits)
  difference = jnp.where(masked, 0.0, student_logits) - jnp.where(
    masked, 0.0, teacher_logits
  )
  return jnp.mean(jnp.square(difference), -1)
