"""Activation boundaries (AB)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def ab_loss(
  student_features: Float[Array, " batch *features"],
  teacher_features: Float[Array, " batch *features"],
  *,
  margin: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Activation boundaries (AB): a hinge loss on the neurons' signs.

  .. math::
    \ell = \frac{3}{1000} \sum_{hwc}
      [t \le 0][s > -m] (s + m)^2 + [t > 0][s \le m] (s - m)^2

  The loss pushes the student's pre-activation s below -m where the teacher's
  pre-activation t is at most 0, and above m where t is positive. The size of t
  does not enter the loss.

  Args:
    student_features: pre-activations, projected to the teacher's shape, see
      `kdjax.methods.ab`.
    teacher_features: the teacher's pre-activations; they receive no gradient.
    margin: m > 0. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher; they are 0.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    summed over n stages with weights 2^(i - n + 1), i from 0, in 30 epochs
    without labels before the training with labels (RepDistiller).

  Raises:
    ValueError: if the shapes differ or a static margin is not above 0.
    TypeError: if the features are not floating-point.

  Published codes disagree on the scale. The factor 3/1000 is RepDistiller's and
  the authors' for CIFAR-10; the authors' code for large images has 1/1000,
  torchdistill 1, and Knowledge-Distillation-Zoo takes the mean.

  Examples:
    >>> ab_loss(jnp.array([[0.0, 2.0]]), jnp.array([[-1.0, 1.0]]))
    Array([0.003], dtype=float32)

  References:
    Heo et al., `Knowledge transfer via distillation of activation boundaries
    formed by hidden neurons <https://arxiv.org/abs/1811.03233>`_, 2019.
  """
  ops.check_positive("margin", margin)
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  margin = ops.as_number("margin", margin, student.dtype)
  silent = jnp.square(ops.at_least(student + margin, 0.0))
  firing = jnp.square(ops.at_least(margin - student, 0.0))
  values = ops.keep_nan(jnp.where(teacher > 0, firing, silent), teacher)
  return 3e-3 * jnp.sum(values, tuple(range(1, values.ndim)))
