"""Variance risk extrapolation (V-REx)."""

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods._row import Search
from kdjax.methods.generalization._annealed import annealed
from kdjax.methods.generalization._row_kinds import ANNEAL, LONG, row


def _vrex(*, weight: ArrayLike = 10.0, anneal_steps: ArrayLike = 500) -> Method:
  """The `kdjax.generalization.vrex_penalty` of the domains' cross-entropies.

  Its weight is 1 for the first `anneal_steps`, 500 of 5,000 in DomainBed.
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


ROWS = {
  "vrex": row(
    "V-REx",
    "the domains' losses are equal",
    _vrex,
    weight=10.0,
    search=Search(10.0, **LONG),
    anneal=ANNEAL,
  ),
}
