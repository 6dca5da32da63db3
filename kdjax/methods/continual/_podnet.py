"""PODNet: pooled maps and embeddings stay near the past ones."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import continual
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import select_stages
from kdjax.methods.continual._row_kinds import past


def _podnet(
  *, weight: ArrayLike = 3.0, embedding_weight: ArrayLike = 1.0
) -> Objective:
  """Maps of all stages, and embeddings.

  The authors multiply both weights by a factor that grows with the number of
  classes.
  """

  def stages(student: Any, past: Any) -> tuple[list[Array], list[Array]]:
    return select_stages(student, past)

  spatial = stateless(continual.pod_loss, stages)
  flat = stateless(
    continual.lucir_loss, ("student_embeddings", "past_embeddings")
  )
  return combine(
    {"spatial": (weight, spatial), "flat": (embedding_weight, flat)}
  )


ROWS = {
  "podnet": past(
    "PODNet",
    "pooled maps of all stages and embeddings stay near the past ones",
    _podnet,
    weight=3.0,
    source="authors, CIFAR-100, before their factor for the number of classes",
  ),
}
