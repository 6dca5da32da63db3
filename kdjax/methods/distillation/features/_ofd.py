"""The overhaul of feature distillation (OFD)."""

from typing import Any

from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import field_of, matched_stages
from kdjax.methods.distillation._row_kinds import MDISTILLER, row
from kdjax.methods.distillation.features._preactivations import (
  connected,
  connectors_by,
  deeper_weigh_more,
)
from kdjax.nets import layers


def _ofd() -> Objective:
  r"""By `kdjax.distillation.ofd_loss`, of all stages without the stem.

  .. math::
    \ell = \sum_{i=0}^{n-1} 2^{i - n + 1} \ell_i

  The student's pre-activations go through a 1x1 convolution and batch
  normalization; the teacher's are averaged to the student's size. The margins
  come from the teacher's last batch normalization of each stage. The published
  weight is 1e-4 on ImageNet.

  Departs from the authors' code: the teacher is in evaluation mode; there it
  has the statistics of the batch.
  """

  def connect(ours: Any, theirs: Any, rngs: nnx.Rngs) -> Any:
    return layers.ConvNorm(
      ours.shape[-1],
      theirs.shape[-1],
      1,
      rngs=rngs,
    )

  def loss(
    connectors: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    normalizations = field_of("teacher", teacher, "normalizations")
    names = [name for _, name in matched_stages(student, teacher)]
    stages = connected(connectors, student, teacher)
    return deeper_weigh_more(
      [
        distillation.ofd_loss(
          ours,
          ops.adaptive_mean_pool(theirs, ours.shape[1:3]),
          distillation.ofd_margin(*normalizations[name]),
        )
        for name, (ours, theirs) in zip(names, stages, strict=True)
      ]
    )

  return modular(connectors_by(connect), loss)


ROWS = {
  "ofd": row(
    "features",
    "Overhaul of feature distillation, Heo 2019",
    "matches pre-activations above a margin of each channel",
    _ofd,
    weight=1e-3,
    source=MDISTILLER,
  ),
}
