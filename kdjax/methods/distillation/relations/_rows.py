"""Methods that compare relations and learn no part of their own."""

from kdjax import distillation
from kdjax.methods._row import lift
from kdjax.methods._stages import select_last_stage
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row

_EMBEDDINGS = ("student_embeddings", "teacher_embeddings")


ROWS = {
  "sp": row(
    "relations",
    "Similarity-preserving, Tung 2019",
    "matches the similarities between the examples of the batch",
    lift(distillation.sp_loss, select_last_stage),
    weight=3000.0,
    source=REPDISTILLER,
  ),
  "rkd": row(
    "relations",
    "Relational KD, Park 2019",
    "matches the distances and angles between examples",
    lift(
      distillation.rkd_loss,
      _EMBEDDINGS,
      distance_weight=25.0,
      angle_weight=50.0,
    ),
    source=REPDISTILLER,
  ),
  "pkt": row(
    "relations",
    "Probabilistic knowledge transfer, Passalis 2018",
    "matches the probabilities that examples are neighbors",
    lift(distillation.pkt_loss, _EMBEDDINGS),
    weight=30000.0,
    source=REPDISTILLER,
  ),
}
