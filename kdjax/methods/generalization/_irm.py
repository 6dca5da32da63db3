"""Invariant risk minimization (IRM)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods._row import Search
from kdjax.methods.generalization._annealed import annealed
from kdjax.methods.generalization._row_kinds import ANNEAL, LONG, row


def _irm(
  *,
  weight: ArrayLike = 100.0,
  anneal_steps: ArrayLike = 500,
  form: str = "halves",
) -> Method:
  """The mean over domains of `kdjax.generalization.irm_penalty`.

  Its weight is 1 for the first `anneal_steps`, 500 of 5,000 in DomainBed.
  """

  def penalty(
    student_logits: Array, labels: Array, *, where: Array, axis_name: str | None
  ) -> Array:
    return jnp.mean(
      generalization.irm_penalty(
        student_logits, labels, form=form, where=where, axis_name=axis_name
      )
    )

  return annealed(
    stateless(penalty), weight=weight, before=1.0, steps=anneal_steps
  )


ROWS = {
  "irm": row(
    "IRM",
    "no classifier of another scale is better in any domain",
    _irm,
    weight=100.0,
    search=Search(100.0, **LONG),
    anneal=ANNEAL,
  ),
}
