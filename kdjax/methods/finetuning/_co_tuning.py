"""Co-Tuning: the pretrained head is trained on, beside the new one."""

from typing import Any

from jaxtyping import Array, Float

from kdjax import finetuning
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.finetuning._pretrained_head import PretrainedHead
from kdjax.methods.finetuning._row_kinds import row


def _co_tuning(
  relationship: Float[Array, "target_classes source_classes"],
) -> Objective:
  """Co-Tuning: the pretrained head is trained on, beside the new one.

  The `kdjax.finetuning.co_tuning_loss` of the old head on the student's
  embeddings, that of the role `"past"`. The objective's parameters are the
  difference from that head.

  Args:
    relationship: `[target_classes, source_classes]`, from
      `kdjax.finetuning.co_tuning_targets`.

  Returns:
    An objective; its published weight is 2.3, beside the cross-entropy of the
    new head.

  Raises:
    ValueError: from `init` or `apply`, if the student has no embedding or the
      pretrained network no classifier.

  References:
    You et al., `Co-Tuning for transfer learning
    <https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html>`_,
    2020.
  """

  def loss(
    head: Any,
    student_embedding: Array,
    past_classifier: Any,
    labels: Array,
    *,
    relationship: Array,
  ) -> Array:
    answers = head(student_embedding, past_classifier)
    return finetuning.co_tuning_loss(answers, relationship[labels])

  return modular(PretrainedHead, loss, relationship=relationship)


ROWS = {
  "co_tuning": row(
    "Co-Tuning",
    "the pretrained head is trained on, with labels of related classes",
    _co_tuning,
    weight=2.3,
    networks=("past",),
    source="TLlib",
  ),
}
