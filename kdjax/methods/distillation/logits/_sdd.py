"""Scale-decoupled distillation (SDD): of regional logits."""

import functools
from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import as_map, field_of, last_feature
from kdjax.methods.distillation._row_kinds import row


def _sdd(
  *,
  inner: str = "kd",
  grids: Sequence[int] = (1, 2, 4),
  **hyperparameters: ArrayLike,
) -> Objective:
  """By `kdjax.distillation.sdd_loss`, of the last maps' regional logits.

  Each network's own classifier makes them; the loss of a region is `inner`,
  "kd", "dkd" or "nkd", with its hyper-parameters and `complementary_weight`.
  """

  def logits_of(role: str, outputs: nets.Outputs) -> Array:
    feature = last_feature(role, outputs)
    kernel, bias = field_of(role, outputs, "classifier")
    if feature.ndim == 3 or feature.shape[-1] != kernel.shape[0]:
      raise ValueError(
        f"{role} has last features of shape {feature.shape}; expected maps of "
        f"{kernel.shape[0]} channels, whose mean its classifier sees."
      )
    return distillation.regional_logits(
      as_map(feature), kernel, bias, grids=grids
    )

  def select(
    student: nets.Outputs, teacher: nets.Outputs, labels: Any
  ) -> tuple[Any, ...]:
    ours, theirs = logits_of("student", student), logits_of("teacher", teacher)
    return ours, theirs, labels

  return stateless(
    functools.partial(distillation.sdd_loss, inner=inner),
    select,
    **hyperparameters,
  )


ROWS = {
  "sdd_kd": row(
    "logits",
    "Scale-decoupled KD, Wei 2024",
    "applies KD to the logits of regions of the last map",
    functools.partial(_sdd, inner="kd", temperature=4.0),
    weight=0.9,
    cross_entropy=0.1,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py",
  ),
  "sdd_dkd": row(
    "logits",
    "Scale-decoupled DKD, Wei 2024",
    "applies DKD to the logits of regions of the last map",
    functools.partial(_sdd, inner="dkd", temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py, train_origin.py",
  ),
}
