"""Wasserstein distillation of features (WKD-F)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import maps_of, matched_stages
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._fitnet import Regressor


def _wkd_feature(
  *,
  mean_weight: ArrayLike = 4.0,
  grid: int = 1,
) -> Objective:
  """By `kdjax.distillation.wkd_feature_loss`, of the last stage.

  The student's map goes through `fitnet`'s convolution, batch normalization and
  ReLU; `mean_weight` is that of the means beside the standard deviations.

  Departs from the authors' code: the weight does not decay.
  """

  def select(
    student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    ours, theirs = matched_stages(student, teacher)[-1]
    (projected,) = maps_of("student", student, "features", [ours])
    (target,) = maps_of("teacher", teacher, "features", [theirs])
    return projected, target

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(select, student, teacher)
    return Regressor(ours.shape, theirs.shape, rngs=rngs)

  def loss(
    regressor: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    mean_weight: ArrayLike,
  ) -> Array:
    ours, theirs = select(student, teacher)
    return distillation.wkd_feature_loss(
      nnx.relu(regressor(ours)), theirs, mean_weight=mean_weight, grid=grid
    )

  return modular(build, loss, mean_weight=mean_weight)


ROWS = {
  "wkd_feature": row(
    "features",
    "Wasserstein distillation of features, Lv 2024",
    "matches means and deviations of the last map as Gaussians",
    _wkd_feature,
    weight=0.08,
    source="WKD, configs/cifar100/wkd_f/res32x4_res8x4.yaml, without its decay",
  ),
}
