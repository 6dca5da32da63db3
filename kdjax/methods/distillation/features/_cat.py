"""Class attention transfer (CAT-KD)."""

import functools

from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.distillation.features._simkd_srrl import (
  check_pooled,
  classified_maps,
  classify,
)


def cat(
  *,
  resolution: int = 2,
  normalize: bool = True,
) -> Objective:
  r"""Class attention transfer (CAT-KD) of class activation maps.

  The `kdjax.distillation.cat_loss` of both networks' maps

  .. math::
    \mathrm{CAM}_{hwk} = \sum_c F_{hwc} W_{ck}

  of the last features F and the kernel W of the classifier. The authors first
  turn each network's average pooling and linear head into a 1x1 convolution
  without bias and average pooling. A mean and a linear map commute: the logits
  are the same, and their convolution returns this product. So no network is
  changed here, and the head's bias, which theirs has not, stays out of the
  maps.

  Args:
    resolution: the height and width to which the maps are pooled.
    normalize: whether each map is divided by its norm.

  Returns:
    An objective. Published weights, by pair of networks: without
    normalization, at resolution 2, 0.7 (resnet56 to resnet20) to 15
    (resnet32x4 to resnet8x4); with it 15 (vgg13 to MobileNetV2, resolution 2)
    to 600 (resnet32x4 to ShuffleNet, resolution 4).

  Raises:
    ValueError: from `apply`, if a network returns no classifier, or one that
      does not take the channels of the last map.

  References:
    Guo et al., `Class attention transfer based knowledge distillation
    <https://arxiv.org/abs/2304.12777>`_, 2023.
  """
  loss = functools.partial(
    distillation.cat_loss, resolution=resolution, normalize=normalize
  )

  def select(
    student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    check_pooled("student", student)
    ours, theirs = classified_maps(student, teacher)
    return (
      classify("student", student, ours, use_bias=False),
      classify("teacher", teacher, theirs, use_bias=False),
    )

  return stateless(loss, select)
