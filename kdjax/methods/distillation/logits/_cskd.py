"""Class-wise self-distillation (CS-KD)."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.distillation._row_kinds import row


def _cskd(
  *,
  temperature: ArrayLike = 4.0,
  view: str = "partner",
) -> Objective:
  """By `kdjax.distillation.cskd_loss`, without a teacher.

  The view holds, for each image of the batch, another one of the same class.
  """
  names = ("student_logits", f"student_{view}_logits")
  return stateless(distillation.cskd_loss, names, temperature=temperature)


ROWS = {
  "cskd": row(
    "logits",
    "Class-wise self-distillation, Yun 2020",
    "matches the student's own prediction of another example of the class",
    _cskd,
    views=("partner",),
    source="CS-KD, README.md",
    networks=(),
  ),
}
