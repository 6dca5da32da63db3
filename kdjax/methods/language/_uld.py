"""Universal logit distillation (ULD)."""

from typing import Any

from jaxtyping import Array

from kdjax import language
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._row_kinds import row


def _uld() -> Objective:
  """By `kdjax.language.uld_loss`, for a teacher with another tokenizer.

  The teacher reads text of its own tokens; the batch's `"teacher_mask"` marks
  the positions of its answer, as `"mask"` marks those of the student's.
  """

  def loss(student_logits: Array, teacher_logits: Array, batch: Any) -> Array:
    return language.uld_loss(
      student_logits,
      teacher_logits,
      batch["mask"],
      batch.get("teacher_mask", batch["mask"]),
    )

  return stateless(loss)


ROWS = {
  "uld": row(
    "ULD, Boizard 2025",
    "sorted probabilities, for a teacher with another tokenizer",
    _uld,
    weight=1.5,
    cross_entropy=1.0,
    source="llm-recipes, distillation configuration",
  ),
}
