"""MiniLMv2."""

from typing import Any

from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._hidden_states import (
  joined_heads,
  layer_of,
)
from kdjax.methods.language._row_kinds import row


def _minilm_v2(
  *, relation_heads: int = 48, teacher_layer: int = -1
) -> Objective:
  """By `kdjax.distillation.minilm_v2_loss`, of one layer of each network.

  `relation_heads` divides both widths; the authors take 48 for base-size
  teachers and 64 for large ones, and the `teacher_layer` -1 of a base model and
  -4 of a large one.
  """

  def loss(student: nets.Outputs, teacher: nets.Outputs, batch: Any) -> Array:
    sides = [
      [
        joined_heads(layer_of("minilm_v2", x, field, layer))
        for field in ("queries", "keys", "values")
      ]
      for x, layer in ((student, -1), (teacher, teacher_layer))
    ]
    return distillation.minilm_v2_loss(
      sides[0],
      sides[1],
      batch.get("attention_mask"),
      relation_heads=relation_heads,
    )

  return stateless(loss)


ROWS = {
  "minilm_v2": row(
    "MiniLMv2, Wang 2021",
    "one layer's relations between queries, keys and values",
    _minilm_v2,
    source="paper",
  ),
}
