"""Masked generative distillation (MGD)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def mgd_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch height width channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Masked generative distillation (MGD): squared error of generated features.

  .. math::
    \ell = \sum_{hwc} (G(M \odot F^S) - F^T)_{hwc}^2

  `kdjax.methods.mgd` has the mask M and the generation block G; this
  function is the distance.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the output of the generation block for the student's
      masked map.
    teacher_features: the teacher's activations; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight of the mean over the batch: 7e-5 on
    ImageNet and 1.2e-3 on CIFAR-100 (the authors' cls_KD).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  As in the authors' code, the loss is a sum over positions and channels, so the
  weight depends on the size of the map.

  Examples:
    >>> maps = jnp.zeros((1, 2, 2, 3))
    >>> mgd_loss(maps, maps + 1.0)
    Array([12.], dtype=float32)

  References:
    Yang et al., `Masked generative distillation
    <https://arxiv.org/abs/2205.01529>`_, 2022.
  """
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  return jnp.sum(jnp.square(student - teacher), (1, 2, 3))
