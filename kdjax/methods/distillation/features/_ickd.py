"""Inter-channel correlation (ICKD)."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _ickd(*, scaling: str = "cifar") -> Objective:
  """By `kdjax.distillation.ickd_loss`, of the last maps.

  The student's goes through a convolution without bias and batch normalization,
  1x1 for the scaling "cifar" and 3x3 for "imagenet". The published weight of
  the latter is 500, and the cross-entropy gives way to KD at temperature 1.
  """
  sizes = {"imagenet": 3, "cifar": 1}
  ops.check_choice("scaling", scaling, tuple(sizes))

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    return layers.ConvNorm(
      ours.shape[-1],
      theirs.shape[-1],
      sizes[scaling],
      rngs=rngs,
    )

  def loss(
    embed: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    where: Any,
    *,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = last_maps(student, teacher)
    return distillation.ickd_loss(
      embed(ours),
      theirs,
      scaling=scaling,
      where=where,
      axis_name=axis_name,
    )

  return modular(build, loss)


ROWS = {
  "ickd": row(
    "features",
    "Inter-channel correlation, Liu 2021",
    "matches the correlations between channels of the last map",
    _ickd,
    weight=2.5,
    source="ICKD, Cifar100",
  ),
}
