"""KDCL: a teacher made of the peers."""

import functools

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, distillation
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.collaboration._peers import select_peers, supervised
from kdjax.methods.collaboration._row_kinds import NO_CODE, peers


def _kdcl(
  *,
  weight: ArrayLike = 1.0,
  method: str = "min_logit",
  temperature: ArrayLike = 2.0,
) -> Objective:
  """KDCL: a teacher made of the peers, for each example."""

  def loss(
    logits: Array, labels: Array, *, weight: ArrayLike, temperature: ArrayLike
  ) -> Array:
    target = collaboration.kdcl_targets(logits, labels, method=method)
    targets = jnp.broadcast_to(target[None], logits.shape)
    soft = distillation.soft_target_loss(
      logits, targets, temperature=temperature
    )
    return supervised(logits, labels) + weight * jnp.sum(soft, 0)

  return stateless(loss, select_peers, weight=weight, temperature=temperature)


ROWS = {
  "kdcl_naive": peers(
    "KDCL, naive",
    "the best peer of each example teaches",
    functools.partial(_kdcl, method="naive"),
    source=NO_CODE,
  ),
  "kdcl_linear": peers(
    "KDCL, linear",
    "the best combination of the peers' logits teaches, for each example",
    functools.partial(_kdcl, method="linear"),
    source=NO_CODE,
  ),
  "kdcl_min_logit": peers(
    "KDCL, minimum logit",
    "the least certain logit of each class teaches",
    functools.partial(_kdcl, method="min_logit"),
    source=NO_CODE,
  ),
}
