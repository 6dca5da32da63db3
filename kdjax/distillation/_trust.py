"""How far a teacher is to be trusted: labels and confidence correct it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax.distillation._decoupled import target_and_rest
from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._logits import soft_target_loss
from kdjax.ops import kl_divergence
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax
from kdjax.ops._cross_entropy import check_labels
from kdjax.ops._cross_entropy import cross_entropy
from kdjax.ops._cross_entropy import where_known
from kdjax.ops._softmax import row_temperature
from kdjax.ops._validation import as_number
from kdjax.ops._validation import as_share
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
def rld_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  temperature: ArrayLike = 4.0,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 8.0,
  alpha_temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Refined logit distillation (RLD): no lesson contradicts the label.

  .. math::
    \ell = \alpha T_\alpha^2 \,
           \mathrm{KL}([\max_c p^T_c, 1 - \max_c p^T_c] \Vert
                       [p^S_y, 1 - p^S_y])
         + \beta T^2 \, \mathrm{KL}(q^T_M \Vert q^S_M), \quad
    M = \{c : z^T_c < z^T_y\}

  The first term (sample confidence) teaches the label as much confidence as
  the teacher has in its own favourite; p is the softmax at temperature T_alpha.
  The second (masked correlation) compares only the classes that the teacher
  ranks below the label, among themselves.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    labels: `[*batch]`.
    temperature: T > 0 of the second term; a number, or one per example. May be
      traced.
    alpha: the weight of the first term; a number, or one per example. May be
      traced.
    beta: the weight of the second term, like `alpha`.
    alpha_temperature: T_alpha > 0 of the first term, like `temperature`.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats; the second term is 0 where the teacher ranks
    no class below the label. Published weight: 1, beside the cross-entropy,
    after a warm-up of 20 epochs.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point or labels no integers.

  The mean over the batch is the authors' value. The defaults are theirs for
  CIFAR-100, where their command line sets `alpha_temperature` to 4 as well; for
  ImageNet they take temperature 1 and beta 0.5 (ResNet-18) or 2 (MobileNet).

  Examples:
    >>> teacher = jnp.array([[2.0, 1.0, 0.0]])
    >>> print(f"{rld_loss(teacher, teacher, jnp.array([0]))[0]:.1f}")
    0.0
    >>> print(f"{rld_loss(teacher, teacher, jnp.array([1]))[0]:.3f}")
    0.393

  References:
    Sun et al., `Knowledge distillation with refined logits
    <https://arxiv.org/abs/2408.07703>`_, 2024; code zju-SWJ/RLD.
  """
  check_positive("alpha_temperature", alpha_temperature)
  given, labels = labels, check_labels(labels, student_logits.shape[-1])
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  dtype, rows = student_logits.dtype, labels.shape
  alpha_temperature = as_number(
    "alpha_temperature", alpha_temperature, dtype, shape=rows
  )
  confidence = kl_divergence(
    _against_rest(student_logits, labels, alpha_temperature),
    _against_rest(
      teacher_logits, jnp.argmax(teacher_logits, -1), alpha_temperature
    ),
  )
  own = jnp.take_along_axis(teacher_logits, labels[..., None], -1)
  correlation = kl_divergence(
    student_logits,
    teacher_logits,
    temperature=temperature,
    where=teacher_logits < own,
  )
  confidence *= jnp.square(alpha_temperature)
  correlation *= jnp.square(jnp.asarray(temperature, dtype))
  alpha = as_number("alpha", alpha, dtype, shape=rows)
  beta = as_number("beta", beta, dtype, shape=rows)
  values = alpha * confidence + beta * correlation
  return where_known(values, given, student_logits.shape[-1])


@validate
def wsld_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Weighted soft-label distillation (WSLD): less where the teacher errs.

  .. math::
    \ell = \Bigl(1 - \exp\Bigl(-\frac{H(y, p^S)}{H(y, p^T)}\Bigr)\Bigr)
           T^2 \, H(q^T, q^S)

  An example that the teacher finds harder than the student does gets a small
  weight. The weight takes both at temperature 1 and receives no gradient.

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

  As in the authors' code H(q^T, q^S) is the cross-entropy, not KL, so a student
  equal to its teacher has a loss; and 1e-7 is added to the divisor. Where the
  teacher excludes the label, the weight is 0.

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
  given, labels = labels, check_labels(labels, student_logits.shape[-1])
  of_teacher = cross_entropy(teacher_logits, labels) + 1e-7
  ratio = cross_entropy(student_logits, labels) / of_teacher
  ratio = jnp.where(jnp.isposinf(of_teacher), 0.0, ratio)
  weight = jax.lax.stop_gradient(-jnp.expm1(-ratio))
  target = softened_softmax(teacher_logits, temperature=temperature)
  log_student = log_softened_softmax(student_logits, temperature=temperature)
  # A class that the teacher excludes costs nothing, even at log 0.
  terms = target * jnp.where(target != 0, log_student, 0.0)
  scale = jnp.square(jnp.asarray(temperature, terms.dtype))
  values = -weight * scale * jnp.sum(terms, -1)
  return where_known(values, given, student_logits.shape[-1])


@validate
def crld_loss(
  student_weak: Float[Array, "*batch classes"],
  teacher_weak: Float[Array, "*batch classes"],
  student_strong: Float[Array, "*batch classes"],
  teacher_strong: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  weak_threshold: ArrayLike = 0.9,
  strong_threshold: ArrayLike = 0.2,
  within_weight: ArrayLike = 2.0,
  cross_weight: ArrayLike = 0.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Cross-view consistency distillation (CRLD): two views, four comparisons.

  .. math::
    \ell = T^2 \bigl( w_\mathrm{within} \,
      [\max p^T_w \ge \tau_w] \,
      (\mathrm{KL}(q^T_w \Vert q^S_w) + \mathrm{KL}(q^T_s \Vert q^S_s))
    + w_\mathrm{cross} \, [\max p^T_s \ge \tau_s] \,
      (\mathrm{KL}(q^T_w \Vert q^S_s) + \mathrm{KL}(q^T_s \Vert q^S_w)) \bigr)

  w and s are a weakly and a strongly augmented view of the same image; p is
  the softmax at temperature 1. Comparisons count where the teacher is sure.

  Args:
    student_weak: the student's logits of the weak view, `[*batch, classes]`.
    teacher_weak: the teacher's, which receive no gradient.
    student_strong: the student's logits of the strong view.
    teacher_strong: the teacher's, which receive no gradient.
    temperature: T > 0; a number, or one per example. May be traced.
    weak_threshold: the least confidence in the weak view that lets the
      comparisons within a view count, in [0, 1]. May be traced.
    strong_threshold: the same of the strong view, for those across views.
    within_weight: the weight of the comparisons within a view; like the
      thresholds a number, or one per example. May be traced.
    cross_weight: the same of the comparisons across views.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 1, beside the sum of the
    two views' cross-entropies.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  The mean over the batch is the authors' value: it divides by all examples,
  sure or not.

  Examples:
    >>> sure, unsure = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> crld_loss(unsure, unsure, unsure, sure, temperature=1.0)
    Array([0.345...], dtype=float32)

  References:
    Zhang et al., `Cross-view consistency regularisation for knowledge
    distillation <https://arxiv.org/abs/2412.16493>`_, 2024; code
    arcaninez/crld.
  """

  def confidence(logits: Array) -> Array:
    return jnp.max(softened_softmax(logits), -1)

  def soft(student: Array, teacher: Array) -> Array:
    return soft_target_loss(
      student,
      teacher,
      temperature=temperature,
      stop_teacher_gradient=stop_teacher_gradient,
    )

  within = soft(student_weak, teacher_weak) + soft(
    student_strong, teacher_strong
  )
  cross = soft(student_strong, teacher_weak) + soft(
    student_weak, teacher_strong
  )
  rows, dtype = within.shape, within.dtype
  within *= as_number("within_weight", within_weight, dtype, shape=rows)
  cross *= as_number("cross_weight", cross_weight, dtype, shape=rows)
  weak = as_share("weak_threshold", weak_threshold, dtype, shape=rows)
  strong = as_share("strong_threshold", strong_threshold, dtype, shape=rows)
  return jnp.where(confidence(teacher_weak) >= weak, within, 0.0) + jnp.where(
    confidence(teacher_strong) >= strong, cross, 0.0
  )


def _against_rest(
  logits: Array, classes: Array, temperature: ArrayLike
) -> Array:
  """Two logits a row: of one class and of all others together."""
  others = ~jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
  scale = row_temperature(temperature, logits, -1)
  return target_and_rest(logits, classes[..., None], others, scale)
