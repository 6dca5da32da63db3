"""Batch spectral penalization (BSP)."""

import functools
from collections.abc import Sequence

from jax.typing import ArrayLike

from kdjax import adaptation
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, Schedule, stateless
from kdjax.methods.adaptation._row_kinds import EMBEDDINGS, rising, row
from kdjax.methods.adaptation.adversarial._dann import dann


def _bsp(
  *,
  weight: ArrayLike = 1e-4,
  hidden: Sequence[int] = (1024, 1024),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "paper",
  num_components: int = 1,
) -> Objective:
  """DANN, and `weight` times `kdjax.adaptation.bsp_loss`.

  TLlib's default weight is 2e-4, its digits' 1e-4; its DANN has the scaling
  "mean".
  """
  penalty = functools.partial(
    adaptation.bsp_loss, num_components=num_components
  )
  adversary = dann(
    hidden=hidden, scale=scale, schedule=schedule, scaling=scaling
  )
  penalized = stateless(penalty, EMBEDDINGS)
  return combine({"dann": (1.0, adversary), "penalty": (weight, penalized)})


ROWS = {
  "bsp": row(
    "DANN+BSP",
    "as DANN, the largest singular value is penalized",
    rising(_bsp),
    weight=1e-4,
  )
}
