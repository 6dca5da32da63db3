"""Hierarchical context loss (HCL) of ReviewKD."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def hierarchical_context_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch height width channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Hierarchical context loss (HCL, ReviewKD): maps compared at four scales.

  .. math::
    \ell = \frac{\sum_l 2^{-l} \operatorname{mean} \bigl(P_l(F^S) - P_l(F^T)
      \bigr)^2}{\sum_l 2^{-l}}

  P_0 is the map itself; P_1, P_2 and P_3 average-pool it to 4x4, 2x2 and 1x1. A
  size that is not below the map's height is left out, and the next size takes
  its weight: the 2x2 map of a 4x4 map weighs 1/2.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: one stage of the student, fused with the deeper stages,
      see `kdjax.methods.review_kd`.
    teacher_features: the teacher's stage, before its activation; it receives
      no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight of the mean over the batch, summed
    over the stages: 5 for most CIFAR-100 pairs (0.6 for resnet56 to 20, 1 for
    resnet110 to 32, 8 for ShuffleNet V2), 1 on ImageNet (8 for MobileNet).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  Examples:
    >>> maps = jnp.ones((1, 8, 8, 4))
    >>> hierarchical_context_loss(maps, maps + 2.0)
    Array([4.], dtype=float32)

  References:
    Chen et al., `Distilling knowledge via knowledge review
    <https://arxiv.org/abs/2104.09044>`_, 2021.
  """
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  difference = student - teacher  # pooling is linear
  loss, weight, weights = example_mean(jnp.square(difference)), 1.0, 1.0
  for size in (4, 2, 1):
    if size < difference.shape[1]:
      pooled = ops.adaptive_mean_pool(difference, (size, size))
      weight /= 2
      loss += weight * example_mean(jnp.square(pooled))
      weights += weight
  return loss / weights
