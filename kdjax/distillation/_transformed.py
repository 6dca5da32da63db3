"""Losses that raise the teacher's probabilities to a power."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax.distillation._teacher import teacher_side
from kdjax.ops import kl_divergence
from kdjax.ops import log_softened_softmax
from kdjax.ops._cross_entropy import check_labels
from kdjax.ops._cross_entropy import cross_entropy
from kdjax.ops._cross_entropy import where_known
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
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

  The power transform with gamma is a temperature of 1 / gamma; the student
  keeps temperature 1, and there is no factor T^2.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class at
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
  return kl_divergence(student_logits, _powers(teacher, gamma))


@validate
def wttm_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  gamma: ArrayLike,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Weighted transformed teacher matching (WTTM).

  .. math::
    \ell = \Bigl( \sum_k p_k^\gamma \Bigr) \,
           \mathrm{KL}(p^{(\gamma)} \Vert q)

  :func:`ttm_loss`, weighed by the power sum of the teacher's probabilities: the
  smoother these are, the more the example counts.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class at
      -inf on both sides is masked.
    gamma: the exponent, > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 4 with gamma = 0.2, beside 1 times
    the cross-entropy (CIFAR-100, vgg13 to vgg8, there beside CRD).

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
  powers = _powers(log_softened_softmax(teacher), gamma)
  return jnp.sum(jnp.exp(powers), -1) * kl_divergence(student_logits, powers)


@validate
def ofa_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  eps: ArrayLike = 1.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""One-for-all distillation (OFA): the target's share is enhanced.

  .. math::
    \ell = - \sum_c \bigl[ (p_c + 1_{c = y})^\epsilon - 1_{c = y} \bigr]
           \log q_c

  With epsilon = 1 it is the cross-entropy of student and teacher; the larger
  epsilon, the more the labelled class outweighs what the teacher says of
  others.

  Args:
    student_logits: `[*batch, classes]`, those of the network or of a stage, see
      :func:`kdjax.objectives.ofa`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class at
      -inf on both sides is masked.
    labels: class indices `[*batch]`.
    eps: the exponent epsilon, > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 for the network and for each
    stage, beside 1 times the cross-entropy.

  Raises:
    ValueError: if shapes differ or a static eps is not above 0.
    TypeError: if the logits are not floating-point or the labels no integers.

  Agrees with the authors' code, without its logarithm of a rounded softmax,
  and with its temperature at the 1 that all its recipes use.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0]])
    >>> ofa_loss(logits, logits, jnp.array([1]), eps=1.0)
    Array([0.6931472], dtype=float32)

  References:
    Hao et al., `One-for-all: bridge the gap between heterogeneous architectures
    in knowledge distillation <https://arxiv.org/abs/2310.19444>`_, 2023.
  """
  check_positive("eps", eps)
  teacher = teacher_side(teacher_logits, stop_teacher_gradient)
  classes = teacher.shape[-1]
  given, labels = labels, check_labels(labels, classes)
  is_target = jax.nn.one_hot(labels, classes, dtype=bool)
  log_p = log_softened_softmax(teacher)
  eps = _rows(as_number("eps", eps, log_p.dtype, shape=labels.shape))
  # p^eps, and for the target (1 + p)^eps - 1 = expm1(eps log1p(p)).
  used = log_p != -jnp.inf
  weights = jnp.where(
    is_target,
    jnp.expm1(eps * jnp.log1p(jnp.exp(log_p))),
    jnp.where(used, jnp.exp(eps * jnp.where(used, log_p, 0.0)), 0.0),
  )
  # The target's cross-entropy keeps its digits where the student is sure.
  costs = jnp.where(
    is_target,
    cross_entropy(student_logits, labels)[..., None],
    -log_softened_softmax(student_logits),
  )
  values = jnp.sum(weights * jnp.where(weights == 0, 0.0, costs), -1)
  return where_known(values, given, classes)


def _powers(logits: Array, gamma: ArrayLike) -> Array:
  """Returns logits of the probabilities' powers."""
  check_positive("gamma", gamma)
  logits = logits.astype(compute_dtype(logits))
  gamma = as_number("gamma", gamma, logits.dtype, shape=logits.shape[:-1])
  used = logits != -jnp.inf  # 0 times infinity is no gradient for gamma
  return jnp.where(used, _rows(gamma) * jnp.where(used, logits, 0.0), -jnp.inf)


def _rows(number: Array) -> Array:
  """Returns a number, or one a row, ready to meet the class axis."""
  return number[..., None] if number.ndim else number
