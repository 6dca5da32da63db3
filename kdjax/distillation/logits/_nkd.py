"""Normalized (NKD) and universal self-knowledge distillation (USKD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import teacher_side
from kdjax.distillation.logits._target_and_rest import one_hot, product


@ops.validate
def nkd_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  temperature: ArrayLike = 1.0,
  gamma: ArrayLike = 1.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Normalized knowledge distillation (NKD): non-target classes normalized.

  .. math::
    \ell = - q^T_y \log q^S_y
           - \gamma T^2 \sum_{c \ne y} \hat q^T_c \log \hat q^S_c

  where q is the softmax at temperature 1 and `q-hat` is the softmax of the
  non-target classes at temperature T. Both terms are cross-entropies, so the
  loss of equal logits is not 0.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    labels: class indices `[*batch]`. An index outside [0, classes) gives the
      value NaN and no gradient, so that a masked example may hold any index.
    temperature: T > 0; a number, or one per example. May be traced.
    gamma: the weight of the other classes; a number, or one per example.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats. Published weight: 1, beside 1 times the
    cross-entropy; T = 1 and gamma = 1.5 on ImageNet, 3 and 3.5 on CIFAR-100.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point or the labels not integers.

  The value equals that of the authors' code, which takes the largest class of
  soft labels. The copy in SDD's code keeps the labeled class among the others
  by mistake.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0, 0.0]])
    >>> nkd_loss(logits, logits, jnp.array([1]), gamma=1.0)
    Array([1.05935...], dtype=float32)

  References:
    Yang et al., `From knowledge distillation to self-knowledge distillation
    <https://arxiv.org/abs/2303.13005>`_, 2023.
  """
  teacher_logits = teacher_side(teacher_logits, stop_teacher_gradient)
  given, labels = labels, ops.check_labels(labels, student_logits.shape[-1])
  others = ~one_hot(labels, student_logits)
  target = jnp.exp(-ops.cross_entropy(teacher_logits, labels))
  hard = product(target, ops.cross_entropy(student_logits, labels))
  weights = ops.softened_softmax(
    teacher_logits, temperature=temperature, where=others
  )
  log_q = ops.log_softened_softmax(
    student_logits, temperature=temperature, where=others
  )
  soft = jnp.sum(product(weights, -log_q), -1)
  gamma = ops.as_number("gamma", gamma, soft.dtype, shape=soft.shape)
  scale = ops.as_number(
    "temperature", temperature, soft.dtype, shape=soft.shape
  )
  values = hard + gamma * jnp.square(scale) * soft
  return ops.mask_unknown_labels(values, given, student_logits.shape[-1])


@ops.validate
def uskd_loss(
  student_logits: Float[Array, "batch classes"],
  labels: Integer[Array, " batch"],
  weak_logits: Float[Array, "batch classes"] | None = None,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 0.1,
  weak_weight: ArrayLike = 0.005,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Universal self-knowledge distillation (USKD): NKD without a teacher.

  .. math::
    \ell = \operatorname{mean}_b \Bigl[ - \alpha \, \bigl(1 + q_y^2 -
      \operatorname{mean}_{b'} q_y^2\bigr) \log q_y
      - \beta \sum_{c \ne y} \frac{1 / r_c}{\sum_{k \ne y} 1 / r_k}
        \log \hat q_c + \mu \, H(\tilde y, w) \Bigr]

  The soft label of the labeled class is the student's squared confidence,
  shifted to the mean 1. The soft labels of the other classes follow Zipf's law
  in the rank r of the class. The rank orders the sum of the student's scores
  and the scores of a weak classifier w on an earlier feature. The weak
  classifier learns from the smoothed labels `y-tilde`. Soft labels and ranks
  receive no gradient.

  Args:
    student_logits: `[batch, classes]`. A class with -inf is masked, for the
      weak classifier too.
    labels: class indices `[batch]`.
    weak_logits: the weak classifier's logits, `[batch, classes]`, see
      `kdjax.methods.uskd`; None ranks by the student's scores alone.
    alpha: the weight of the labeled class.
    beta: the weight of the other classes.
    weak_weight: mu, the weight of the weak classifier's loss.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar. Published weight: 1, beside 1 times the cross-entropy; (alpha,
    beta, mu) = (1, 0.1, 0.005) for CNNs on ImageNet, 0.1 each on CIFAR-100.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the logits are not floating-point or the labels not integers.

  As in the authors' code, the ranks add the weak classifier's probabilities and
  the student's *log*-probabilities, each divided by 1 minus the value of the
  labeled class, and the labeled class keeps a rank among the others. That code
  takes the two largest classes of mixed labels; here labels are indices.

  Examples:
    >>> logits, labels = jnp.array([[0.0, 0.0, 0.0]]), jnp.array([1])
    >>> print(f"{uskd_loss(logits, labels, beta=1.0):.4f}")
    1.7918

  References:
    Yang et al., `From knowledge distillation to self-knowledge distillation
    <https://arxiv.org/abs/2303.13005>`_, 2023.
  """
  if where is not None:
    student_logits = jnp.where(where[:, None], student_logits, 0.0)
    if weak_logits is not None:
      weak_logits = jnp.where(where[:, None], weak_logits, 0.0)
  given, labels = labels, ops.check_labels(labels, student_logits.shape[-1])
  is_target = one_hot(labels, student_logits)
  hard = ops.cross_entropy(student_logits, labels)
  square = jax.lax.stop_gradient(jnp.exp(-2.0 * hard))
  shift = 1.0 - ops.masked_mean(square, where, axis_name=axis_name)
  log_q = ops.log_softened_softmax(student_logits)
  scores = _normalized(log_q, is_target)
  total = ops.as_number("alpha", alpha, hard.dtype) * product(
    square + shift, hard
  )
  if weak_logits is not None:
    used = ~jnp.isneginf(log_q)
    log_weak = ops.log_softened_softmax(weak_logits, where=used)
    scores += _normalized(jnp.exp(log_weak), is_target)
    count = jnp.sum(used, -1, keepdims=True, dtype=hard.dtype)
    smoothed = jnp.where(used, 0.9 * is_target + 0.1 / count, 0.0)
    cost = jnp.sum(product(smoothed, -log_weak), -1)
    total += ops.as_number("weak_weight", weak_weight, hard.dtype) * cost
  order = jnp.argsort(-jax.lax.stop_gradient(scores), axis=-1)
  ranks = 1.0 + jnp.argsort(order, axis=-1).astype(hard.dtype)
  zipf = jnp.where(is_target | jnp.isneginf(log_q), 0.0, 1.0 / ranks)
  zipf /= jnp.maximum(jnp.sum(zipf, -1, keepdims=True), 1e-30)
  log_others = ops.log_softened_softmax(student_logits, where=~is_target)
  soft = jnp.sum(product(zipf, -log_others), -1)
  total += ops.as_number("beta", beta, hard.dtype) * soft
  total = ops.mask_unknown_labels(total, given, student_logits.shape[-1])
  return ops.masked_mean(total, where, axis_name=axis_name)


def _normalized(scores: Array, is_target: Array) -> Array:
  target = jnp.sum(jnp.where(is_target, scores, 0.0), -1, keepdims=True)
  return scores / (1.0 - target + 1e-6)
