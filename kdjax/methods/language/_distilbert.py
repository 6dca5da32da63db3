"""DistilBERT."""

from typing import Any

from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._hidden_states import (
  hidden_states,
)
from kdjax.methods.language._intermediate_matches import (
  example_mask,
)
from kdjax.methods.language._row_kinds import row


def _distilbert() -> Objective:
  """By `kdjax.distillation.cosine_embedding_loss`, of last hidden states."""

  def loss(
    student: nets.Outputs,
    teacher: nets.Outputs,
    batch: Any,
    *,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    del where  # a mask of examples or of tokens
    ours, theirs = hidden_states("distilbert", student, teacher)
    return distillation.cosine_embedding_loss(
      ours[-1],
      theirs[-1],
      batch.get("attention_mask"),
      where=example_mask(batch),
      axis_name=axis_name,
    )

  return stateless(loss)


ROWS = {
  "distilbert": row(
    "DistilBERT, Sanh 2019",
    "soft predictions, masked tokens, and the cosine of last hidden states",
    _distilbert,
    cross_entropy=2.0,
    kd=5.0,
    temperature=2.0,
    source="transformers, research_projects/distillation",
  ),
}
