"""Learning without forgetting (LwF)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.finetuning._pretrained_head import PretrainedHead
from kdjax.methods.finetuning._row_kinds import row


def _lwf(*, temperature: ArrayLike = 3.0) -> Objective:
  """Learning without forgetting (LwF): the old task's answers are kept.

  The `kdjax.distillation.soft_target_loss` of the old head, which is
  trained on, on the student's embeddings, and of the pretrained network's
  answers. Examples are those of the new task.

  Args:
    temperature: T > 0.

  Returns:
    An objective. Published weight: 4 at temperature 3 without the factor T^2
    (TLlib), that is 4 / 9 here, beside the cross-entropy of the new head.

  Raises:
    ValueError: if a static temperature is not above 0; from `init` or `apply`,
      if the student has no embedding or the pretrained network no
      classifier.

  References:
    Li and Hoiem, `Learning without forgetting
    <https://arxiv.org/abs/1606.09282>`_, 2016.
  """
  ops.check_positive("lwf: temperature", temperature)

  def loss(
    head: Any,
    student_embedding: Array,
    past_classifier: Any,
    past_logits: Array,
    *,
    temperature: Array,
  ) -> Array:
    answers = head(student_embedding, past_classifier)
    return distillation.soft_target_loss(
      answers, past_logits, temperature=temperature
    )

  return modular(PretrainedHead, loss, temperature=temperature)


ROWS = {
  "lwf": row(
    "LwF",
    "the pretrained head keeps its answers",
    _lwf,
    weight=4 / 9,
    networks=("past",),
    source="TLlib, whose 4 is without the factor T^2",
  ),
}
