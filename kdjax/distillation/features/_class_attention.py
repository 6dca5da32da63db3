"""Class attention transfer (CAT)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def cat_loss(
  student_features: Float[Array, "batch height width classes"],
  teacher_features: Float[Array, "batch teacher_height teacher_width classes"],
  *,
  resolution: int = 2,
  normalize: bool = True,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Class attention transfer (CAT): equal class activation maps.

  .. math::
    \ell = \operatorname{mean}_{hwc} (A(F^S) - A(F^T))^2, \qquad
    A(F)_c = \frac{\operatorname{pool}(F_c)}
                  {\lVert \operatorname{pool}(F_c) \rVert_2}

  F holds one class activation map a class, whose mean over the positions is the
  logit of the class. `kdjax.methods.cat` computes F for any network that
  averages its last features before a linear head.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the student's class activation maps.
    teacher_features: the teacher's class activation maps, of any height and
      width; they receive no gradient.
    resolution: the height and width to which both sides are average-pooled.
    normalize: whether each pooled map is divided by its norm over positions. A
      map of zeros stays 0 and gets no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weights of the mean over the batch, by pair
    of networks on CIFAR-100: with `normalize=False` and resolution 2 from 0.7
    (resnet56 to resnet20) to 15 (resnet32x4 to resnet8x4); normalized from 15
    (vgg13 to MobileNetV2, resolution 2) to 600 (resnet32x4 to ShuffleNet,
    resolution 4).

  Raises:
    ValueError: if the batch sizes or classes differ or `resolution` is below 1.
    TypeError: if `resolution` is not an integer or the maps are not
      floating-point.

  Examples:
    >>> maps = jnp.arange(32.0).reshape(1, 4, 4, 2)
    >>> cat_loss(maps, 3.0 * maps).round(6)
    Array([0.], dtype=float32)

  References:
    Guo, Yan, Li and Lin, `Class attention transfer based knowledge
    distillation <https://arxiv.org/abs/2304.12777>`_, 2023.
  """
  ops.check_integer("resolution", resolution, 1)
  student, teacher = (
    ops.adaptive_mean_pool(x, (resolution, resolution))
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  if normalize:
    flat = student.shape[0], -1, student.shape[-1]
    student, teacher = (
      ops.normalize_as_torch(x.reshape(flat), axis=1)
      for x in (student, teacher)
    )
  return example_mean(jnp.square(student - teacher))
