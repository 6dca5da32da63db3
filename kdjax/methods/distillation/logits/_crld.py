"""Cross-view consistency (CRLD)."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.logits._two_views import two_views


def _crld(
  *,
  view: str = "strong",
  **hyperparameters: ArrayLike,
) -> Objective:
  """By `kdjax.distillation.crld_loss`, of the batch and a strong view.

  The authors add the cross-entropy of the strong view to that of the weak one.
  """
  return two_views(distillation.crld_loss, view, **hyperparameters)


ROWS = {
  "crld": row(
    "logits",
    "Cross-view regularization, Zhang 2024",
    "matches logits within and across a weak and a strong view",
    _crld,
    views=("strong",),
    source="CRLD, mdistiller/engine/cfg.py",
  ),
}
