"""Class attention transfer (CAT-KD)."""

import functools

from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._classified import (
  check_pooled,
  classified_maps,
  classify,
)


def _cat(
  *,
  resolution: int = 2,
  normalize: bool = False,
) -> Objective:
  r"""By `kdjax.distillation.cat_loss`, of class activation maps.

  .. math::
    \mathrm{CAM}_{hwk} = \sum_c F_{hwc} W_{ck}

  of the last features F and the kernel W of the classifier. The authors first
  turn pooling and linear head into a 1x1 convolution without bias and pooling:
  the logits are the same, as a mean and a linear map commute, and so no network
  is changed here. The published weight and `normalize` differ by pair.
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


ROWS = {
  "cat": row(
    "features",
    "Class attention transfer, Guo 2023",
    "matches the class activation maps",
    _cat,
    weight=15.0,
    source="CAT-KD, res32x4_res8x4.yaml",
  ),
}
