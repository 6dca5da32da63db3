"""Hint loss of FitNets."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def hint_loss(
  student_features: Float[Array, " batch *features"],
  teacher_features: Float[Array, " batch *features"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Hint loss (FitNets): mean squared difference of two feature maps.

  .. math::
    \ell = \operatorname{mean}_{hwc} (F^S - F^T)^2

  A regressor first maps features of another shape to the teacher's shape, see
  `kdjax.methods.fitnet`.

  Args:
    student_features: activations of one stage (the guided layer), any rank.
    teacher_features: the teacher's activations (the hint), of the same shape;
      they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 100 times the mean over the batch
    (RepDistiller, mdistiller).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  RepDistiller, mdistiller, torchdistill and this code take the mean over all
  elements; the paper has half the sum.

  Examples:
    >>> hint_loss(jnp.zeros((1, 4, 4, 8)), jnp.full((1, 4, 4, 8), 2.0))
    Array([4.], dtype=float32)

  References:
    Romero et al., `FitNets: hints for thin deep nets
    <https://arxiv.org/abs/1412.6550>`_, 2015.
  """
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  return example_mean(jnp.square(student - teacher))
