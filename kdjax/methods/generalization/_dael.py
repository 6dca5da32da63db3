"""Domain adaptive ensemble learning for generalization (DAEL-DG)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._row import Search
from kdjax.methods.adaptation.self_training._dael import Experts, by_experts
from kdjax.methods.generalization._row_kinds import AROUND_ONE, row


def _dael_dg(*, weight: ArrayLike = 1.0) -> Objective:
  """The experts' own loss, and `weight` times their agreement.

  The parts are one expert a domain (`kdjax.generalization.dael_expert_loss`);
  the others agree with it on the view `"strong"`
  (`kdjax.generalization.dael_consistency_loss`). The trained student answers by
  the experts' mean probabilities.
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


ROWS = {
  "dg_dael": row(
    "DAEL-DG",
    "the other domains' experts agree with the own one, on a strong view",
    _dael_dg,
    cross_entropy=0.0,
    views=("strong",),
    search=Search(1.0, **AROUND_ONE),
    source="Dassl",
  ),
}
