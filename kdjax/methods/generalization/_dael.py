"""Domain adaptive ensemble learning for generalization (DAEL-DG)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation.self_training._dael import Experts, by_experts


def dael_dg(*, weight: ArrayLike = 1.0) -> Objective:
  """Domain ensemble (DAEL-DG): experts agree with a domain's own one.

  One expert a domain learns from it
  (`kdjax.generalization.dael_expert_loss`); the others agree with it on a
  strong view (`kdjax.generalization.dael_consistency_loss`). The trained
  student answers by the experts' mean probabilities.

  Args:
    weight: of the consistency, kept in the state; 1 in Dassl.

  Returns:
    An objective which includes the task, of the roles `"student"` and
    `"student_strong"`.

  Raises:
    ValueError: if the student returns no embedding, or there is no view
      `"strong"`.

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """

  def loss(
    experts: Any,
    student_embedding: Array,
    student_strong_embedding: Array,
    labels: Array,
    *,
    weight: Array,
  ) -> Array:
    own, others = experts.of_domains(
      student_embedding, student_strong_embedding
    )
    consistency = generalization.dael_consistency_loss(others, own)
    return generalization.dael_expert_loss(own, labels) + weight * consistency

  return modular(Experts, loss, predict=by_experts, weight=weight)
