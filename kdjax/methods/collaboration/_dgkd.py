"""DGKD: a teacher and all its assistants."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.collaboration._peers import peer_logits
from kdjax.methods.collaboration._row_kinds import taught


def _dgkd(*, temperature: ArrayLike = 5.0) -> Objective:
  """DGKD: the roles `teacher_0`, `teacher_1` ... teach at once."""

  def select(outputs: Any, student_logits: Array) -> tuple[Array, Array]:
    return student_logits, peer_logits(outputs, "teacher")

  return stateless(
    collaboration.dense_guidance_loss, select, temperature=temperature
  )


ROWS = {
  "dgkd": taught(
    "DGKD",
    "a teacher and all its assistants teach at once",
    _dgkd,
    networks=("teacher_0", "teacher_1"),
    cross_entropy=0.0,
    source="authors, whose divergence is also divided by the classes",
  ),
}
