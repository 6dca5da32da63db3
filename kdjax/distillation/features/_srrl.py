"""Softmax regression representation learning (SRRL)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def srrl_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *teacher_positions channels"],
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Softmax regression representation learning (SRRL): features and logits.

  .. math::
    \ell = \alpha \operatorname{mean}_c (\bar F^S - \bar F^T)_c^2
         + \beta \operatorname{mean}_k (z^{ST} - z^T)_k^2

  where the bar is the mean over the positions, and z^{ST} are the logits of the
  teacher's classifier for the student's pooled features.

  Args:
    student_features: the student's features, projected to the teacher's
      channels.
    teacher_features: the teacher's features; they receive no gradient.
    student_logits: z^{ST}, from the student's features.
    teacher_logits: z^T, from the teacher's features; they receive no gradient.
    alpha: the weight of the features. May be traced.
    beta: the weight of the logits. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside the cross-entropy.

  Raises:
    ValueError: if batch sizes, channels or classes differ.
    TypeError: if an argument is not floating-point.

  The weight beta is 1 in the code of the authors and of SimKD, 5 in cls_KD.

  Examples:
    >>> maps, logits = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 5))
    >>> srrl_loss(maps, maps + 1.0, logits, logits + 2.0)
    Array([5.], dtype=float32)

  References:
    Yang, Martinez, Bulat and Tzimiropoulos, `Knowledge distillation via
    softmax regression representation learning
    <https://openreview.net/forum?id=ZzwDy_wiWv>`_, 2021.
  """
  student, teacher = (
    x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  alpha = ops.as_number("alpha", alpha, student.dtype)
  beta = ops.as_number("beta", beta, student_logits.dtype)
  return alpha * example_mean(jnp.square(student - teacher)) + beta * (
    example_mean(jnp.square(student_logits - teacher_logits))
  )
