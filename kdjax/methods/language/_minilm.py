"""MiniLM."""

from typing import Any

from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._hidden_states import (
  layer_of,
)
from kdjax.methods.language._row_kinds import row


def _minilm() -> Objective:
  """By `kdjax.distillation.minilm_loss`, of the last layers."""

  def loss(student: nets.Outputs, teacher: nets.Outputs, batch: Any) -> Array:
    scores = [layer_of("minilm", x, "scores") for x in (student, teacher)]
    values = [layer_of("minilm", x, "values") for x in (student, teacher)]
    return distillation.minilm_loss(
      scores[0],
      scores[1],
      batch.get("attention_mask"),
      student_values=values[0],
      teacher_values=values[1],
    )

  return stateless(loss)


ROWS = {
  "minilm": row(
    "MiniLM, Wang 2020",
    "the last layer's attention and relations between its values",
    _minilm,
    source="paper",
  ),
}
