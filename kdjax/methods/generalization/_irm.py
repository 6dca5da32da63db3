"""Invariant risk minimization (IRM)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._annealed import annealed


def irm(
  *,
  weight: ArrayLike = 100.0,
  anneal_steps: ArrayLike = 500,
  form: str = "halves",
) -> Objective:
  """Invariant risk minimization (IRM): one classifier for all domains.

  The mean over domains of `kdjax.generalization.irm_penalty`, with the
  weight 1 at first. DomainBed begins Adam anew where the weight jumps:
  `kdjax.training.restart_at`.

  Args:
    weight: of the penalty after that, kept in the state.
    anneal_steps: how many steps come before, kept in the state.
    form: of the penalty.

  Returns:
    An objective, beside the cross-entropy. Published: weight 100 after 500
    steps of 5,000 (DomainBed).

  References:
    Arjovsky et al., `Invariant risk minimization
    <https://arxiv.org/abs/1907.02893>`_, 2019.
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
