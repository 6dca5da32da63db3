"""Deep mutual learning (DML)."""

import functools

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods._updates import alternate_networks
from kdjax.methods.collaboration._peers import select_peers, supervised
from kdjax.methods.collaboration._row_kinds import peers


def _mutual(
  *,
  weight: ArrayLike = 1.0,
  reduction: str = "sum",
  epsilon: ArrayLike = 1e-8,
  update: str = "sequential",
) -> Method:
  """Deep mutual learning.

  Args:
    weight: of the divergences.
    reduction: of those to the other peers, "sum" (code) or "mean" (paper).
    epsilon: added to probabilities, as in the code.
    update: "sequential", as the authors' algorithm: each peer moves in its
      turn, and the next one sees its new answers; or "simultaneous". The
      gradient of a peer's turn is that of its own loss: the divergences of the
      others have their targets constant.
  """
  if update not in ("sequential", "simultaneous"):
    raise ValueError(
      f"mutual: update is {update!r}; expected 'sequential' or 'simultaneous'."
    )

  def loss(
    logits: Array, labels: Array, *, weight: ArrayLike, epsilon: ArrayLike
  ) -> Array:
    others = collaboration.mutual_loss(
      logits, reduction=reduction, epsilon=epsilon
    )
    return supervised(logits, labels) + weight * jnp.sum(others, 0)

  objective = stateless(loss, select_peers, weight=weight, epsilon=epsilon)
  turns = alternate_networks() if update == "sequential" else None
  return Method(objective, update=turns)


ROWS = {
  "mutual": peers(
    "DML",
    "each peer learns from the answers of all others",
    _mutual,
    source="authors' code, which sums over the other peers; one by one",
  ),
  "mutual_mean": peers(
    "DML, paper",
    "each peer learns from the mean divergence to the others",
    functools.partial(_mutual, reduction="mean", epsilon=0.0),
    source="paper",
  ),
}
