"""Group distributionally robust optimization (GroupDRO)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective


def group_dro(*, step_size: ArrayLike = 0.01) -> Objective:
  """Group distributionally robust optimization: the worst domains weigh most.

  The `kdjax.generalization.group_dro` of the domains' cross-entropies;
  the domains' weights are the state.

  Args:
    step_size: of the weights, kept in the state; 0.01 in DomainBed.

  Returns:
    An objective which includes the task; its weight is 1.

  References:
    Sagawa et al., `Distributionally robust neural networks
    <https://arxiv.org/abs/1911.08731>`_, 2020.
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
