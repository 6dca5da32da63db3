"""Contrastive distillation within the batch."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._objective import (
  Objective,
)
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.relations._cc import learned_embeddings


def _crd_in_batch(
  *,
  dim: int = 128,
  temperature: ArrayLike = 0.07,
) -> Objective:
  """By `kdjax.distillation.crd_in_batch_loss`, of learned embeddings.

  As in `crd`, both networks are embedded linearly, to unit norm; but the
  negatives are the other examples of the batch, and there is no memory bank.
  """
  return learned_embeddings(
    distillation.crd_in_batch_loss, dim, temperature=temperature
  )


ROWS = {
  "crd_in_batch": row(
    "relations",
    "CRD without a bank",
    "tells the teacher's embedding of an example from others of the batch",
    _crd_in_batch,
    source="none published",
  ),
}
