"""Instance relationship graph (IRG)."""

from typing import Any

from jax.typing import ArrayLike

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import as_map, field_of, matched_stages
from kdjax.methods.distillation._row_kinds import row


def _irg(
  *,
  vertex_weight: ArrayLike = 0.1,
  edge_weight: ArrayLike = 5.0,
  transformation_weight: ArrayLike = 5.0,
) -> Objective:
  """By `kdjax.distillation.irg_loss`, of the last two stages and the head.

  Networks of a single stage leave the stages out.
  """
  return stateless(
    distillation.irg_loss,
    _graph,
    vertex_weight=vertex_weight,
    edge_weight=edge_weight,
    transformation_weight=transformation_weight,
  )


def _graph(student: nets.Outputs, teacher: nets.Outputs) -> tuple[Any, ...]:
  """Selects embeddings, the maps of the last two stages, and logits."""
  stages = matched_stages(student, teacher)[-2:]
  maps: list[Any] = [None, None]
  if len(stages) == 2:
    maps = [
      tuple(as_map(outputs.features[pair[side]]) for pair in stages)
      for side, outputs in enumerate((student, teacher))
    ]
  embeddings = (
    field_of("student", student, "embedding"),
    field_of("teacher", teacher, "embedding"),
  )
  return *embeddings, *maps, student.logits, teacher.logits


ROWS = {
  "irg": row(
    "relations",
    "Instance relationship graph, Liu 2019",
    "matches the graph of examples in each stage and its changes",
    _irg,
    source="Knowledge-Distillation-Zoo, train_kd.py",
  ),
}
