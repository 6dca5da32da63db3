"""One-for-all distillation (OFA) between different architectures."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import teacher_side


@ops.validate
def ofa_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  eps: ArrayLike = 1.5,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""One-for-all distillation (OFA): the target class is enhanced.

  .. math::
    \ell = - \sum_c \bigl[ (p_c + 1_{c = y})^\epsilon - 1_{c = y} \bigr]
           \log q_c

  With epsilon = 1 the loss is the cross-entropy of student and teacher. A
  larger epsilon gives the labeled class more weight against the other classes.

  Args:
    student_logits: `[*batch, classes]`, of the network or of a stage, see
      `kdjax.methods.ofa`.
    teacher_logits: `[*batch, classes]`; they receive no gradient. A class with
      -inf on both sides is masked.
    labels: class indices `[*batch]`.
    eps: the exponent epsilon, > 0; a number, or one per example. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 for the network and for each
    stage, beside 1 times the cross-entropy.

  Raises:
    ValueError: if shapes differ or a static eps is not above 0.
    TypeError: if the logits are not floating-point or the labels not integers.

  The value equals that of the authors' code at temperature 1, which all its
  recipes use. That code takes the logarithm of a rounded softmax; this one does
  not.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0]])
    >>> ofa_loss(logits, logits, jnp.array([1]), eps=1.0)
    Array([0.6931472], dtype=float32)

  References:
    Hao et al., `One-for-all: bridge the gap between heterogeneous architectures
    in knowledge distillation <https://arxiv.org/abs/2310.19444>`_, 2023.
  """
  ops.check_positive("eps", eps)
  teacher = teacher_side(teacher_logits, stop_teacher_gradient)
  classes = teacher.shape[-1]
  given, labels = labels, ops.check_labels(labels, classes)
  is_target = jax.nn.one_hot(labels, classes, dtype=bool)
  log_p = ops.log_softened_softmax(teacher)
  eps = as_rows(ops.as_number("eps", eps, log_p.dtype, shape=labels.shape))
  # p^eps, and for the target (1 + p)^eps - 1 = expm1(eps log1p(p)).
  used = log_p != -jnp.inf
  weights = jnp.where(
    is_target,
    jnp.expm1(eps * jnp.log1p(jnp.exp(log_p))),
    jnp.where(used, jnp.exp(eps * jnp.where(used, log_p, 0.0)), 0.0),
  )
  # cross_entropy keeps more digits than log_softened_softmax where the student
  # is confident.
  costs = jnp.where(
    is_target,
    ops.cross_entropy(student_logits, labels)[..., None],
    -ops.log_softened_softmax(student_logits),
  )
  values = jnp.sum(weights * jnp.where(weights == 0, 0.0, costs), -1)
  return ops.mask_unknown_labels(values, given, classes)


def as_rows(number: Array) -> Array:
  """Returns a number, or one per example with a class axis of size 1."""
  return number[..., None] if number.ndim else number
