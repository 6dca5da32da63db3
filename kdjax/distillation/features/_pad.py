"""Prime-aware adaptive distillation (PAD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def pad_l2_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  log_variance: Float[Array, "batch width"],
  *,
  eps: ArrayLike = 1e-6,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Prime-aware adaptive distillation (PAD): weighted L2 loss.

  .. math::
    \ell = \operatorname{mean}_d \left[
      \frac{(t_d - s_d)^2}{\epsilon + e^{v_d}} + v_d \right]

  An example for which the student predicts a low log-variance v has a larger
  weight.

  Args:
    student_embeddings: `[batch, width]`, of the student.
    teacher_embeddings: `[batch, width]`, of the teacher; they receive no
      gradient.
    log_variance: v, predicted from the student's embedding.
    eps: epsilon, added to the variance. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch
    (torchdistill), after a first stage of training with `hint_loss` of the
    embeddings (CSE-L2).

  Raises:
    ValueError: if the shapes differ or a static `eps` is not above 0.
    TypeError: if an argument is not floating-point.

  Examples:
    >>> zeros = jnp.zeros((1, 4))
    >>> pad_l2_loss(zeros, zeros + 2.0, zeros).round(4)
    Array([4.], dtype=float32)

  References:
    Zhang et al., `Prime-aware adaptive distillation
    <https://arxiv.org/abs/2008.01458>`_, 2020.
  """
  ops.check_positive("eps", eps)
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  log_variance = log_variance.astype(ops.compute_dtype(log_variance))
  eps = ops.as_number("eps", eps, student.dtype)
  # logaddexp computes 1 / (eps + exp v) without an overflow of exp.
  precision = jnp.exp(-jnp.logaddexp(jnp.log(eps), log_variance))
  return example_mean(jnp.square(teacher - student) * precision + log_variance)
