"""Variance risk extrapolation (V-REx)."""

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._annealed import annealed


def vrex(
  *, weight: ArrayLike = 10.0, anneal_steps: ArrayLike = 500
) -> Objective:
  """Variance risk extrapolation (V-REx): equal losses in all domains.

  The `kdjax.generalization.vrex_penalty` of the domains' cross-entropies,
  with the weight 1 at first. DomainBed begins Adam anew where the weight jumps:
  `kdjax.training.restart_at`.

  Args:
    weight: of the penalty after that, kept in the state.
    anneal_steps: how many steps come before, kept in the state.

  Returns:
    An objective, beside the cross-entropy. Published: weight 10 after 500
    steps of 5,000 (DomainBed).

  References:
    Krueger et al., `Out-of-distribution generalization via risk extrapolation
    <https://arxiv.org/abs/2003.00688>`_, 2021.
  """

  def penalty(
    student_logits: Array, labels: Array, *, where: Array, axis_name: str | None
  ) -> Array:
    losses = generalization.domain_losses(
      ops.cross_entropy(student_logits, labels),
      where=where,
      axis_name=axis_name,
    )
    # The losses are already those of all devices.
    return generalization.vrex_penalty(losses)

  return annealed(
    stateless(penalty), weight=weight, before=1.0, steps=anneal_steps
  )
