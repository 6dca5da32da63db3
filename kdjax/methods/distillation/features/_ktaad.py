"""Knowledge translation, adaptation and affinity (KTAAD)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _ktaad(
  *,
  adaptation_weight: ArrayLike = 50.0,
  affinity_weight: ArrayLike = 1.0,
  power: ArrayLike = 2.0,
) -> Objective:
  """By `kdjax.distillation.kta_loss` and `affinity_loss`, of the last maps.

  Each has an adapter of the student's map: a 3x3 convolution, with batch
  normalization and ReLU for the first. Of maps of unequal size the larger is
  averaged to the smaller.

  Departs from the paper: there an auto-encoder, trained before, compresses the
  teacher's map.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    options: dict[str, Any] = {
      "kernel_init": layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    widths = ours.shape[-1], theirs.shape[-1]
    return nnx.Dict(
      adaptation=layers.ConvNorm(*widths, 3, **options),
      affinity=layers.convolution(*widths, 3, use_bias=True, **options),
    )

  def loss(
    adapters: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    adaptation_weight: Array,
    affinity_weight: Array,
    power: Array,
  ) -> Array:
    ours, theirs = ops.pool_to_smaller(*last_maps(student, teacher))
    adapted = nnx.relu(adapters["adaptation"](ours))
    return adaptation_weight * distillation.kta_loss(
      adapted, theirs, power=power
    ) + affinity_weight * distillation.affinity_loss(
      adapters["affinity"](ours), theirs
    )

  return modular(
    build,
    loss,
    adaptation_weight=adaptation_weight,
    affinity_weight=affinity_weight,
    power=power,
  )


ROWS = {
  "ktaad": row(
    "features",
    "Knowledge translation and affinity, He 2019",
    "matches the adapted last map and the affinities of its positions",
    _ktaad,
    source="torchdistill, ktaad",
  ),
}
