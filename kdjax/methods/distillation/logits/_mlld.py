"""Multi-level logit distillation (MLLD)."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.logits._two_views import two_views


def _mlld(
  *,
  level_weight: ArrayLike = 0.9,
  strong_labels: ArrayLike = 0.1,
  view: str = "strong",
  **hyperparameters: ArrayLike,
) -> Objective:
  """By `kdjax.distillation.mlld_loss`, of the batch and a strong view.

  The labels reach the strong view by its cross-entropy, of the weight
  `strong_labels`, alone.
  """
  return two_views(
    distillation.mlld_loss,
    view,
    weight=level_weight,
    strong_labels=strong_labels,
    **hyperparameters,
  )


ROWS = {
  "mlld": row(
    "logits",
    "Multi-level logit distillation, Jin 2023",
    "matches logits by example, by class and by batch, on two views",
    _mlld,
    cross_entropy=0.1,
    views=("strong",),
    source="Multi-Level-Logit-Distillation, mdistiller/engine/cfg.py",
  ),
}
