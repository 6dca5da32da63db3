"""Group distributionally robust optimization (GroupDRO)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._row import Search
from kdjax.methods.generalization._row_kinds import row


def _group_dro(*, step_size: ArrayLike = 0.01) -> Objective:
  """The `kdjax.generalization.group_dro` of the domains' cross-entropies.

  The domains' weights are the state; they move by `step_size`.
  """

  def loss(
    module: Any,
    student_logits: Array,
    labels: Array,
    where: Array,
    *,
    step_size: Array,
    axis_name: str | None,
  ) -> Array:
    losses = generalization.domain_losses(
      ops.cross_entropy(student_logits, labels),
      where=where,
      axis_name=axis_name,
    )
    value, weights = generalization.group_dro(
      losses, module.weights[...], step_size
    )
    module.weights[...] = weights
    return value

  return modular(_DomainWeights, loss, step_size=step_size)


class _DomainWeights(nnx.Module):
  def __init__(self, logits: Any):
    domains = logits.shape[0]
    self.weights = nnx.Variable(jnp.ones(domains) / domains)


ROWS = {
  "group_dro": row(
    "GroupDRO",
    "the domains of the largest losses weigh most",
    _group_dro,
    cross_entropy=0.0,
    tuned="step_size",
    search=Search(0.01, 0.001, 0.1),
  ),
}
