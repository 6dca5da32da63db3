"""DistiLLM-2."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import language, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._log_probs import label_log_probs
from kdjax.methods.language._row_kinds import row


def _distillm2(
  *,
  skew: ArrayLike = 0.1,
  beta: ArrayLike = 1.0,
  reference_gap: ArrayLike | None = None,
  on_policy_reference_gap: ArrayLike | None = None,
) -> Objective:
  """By `kdjax.language.contrastive_skew_loss`, of two texts.

  The view `on_policy` is the student's text; the batch's `"on_policy_mask"`
  marks its positions in the loss, as `"mask"` marks those of the teacher's
  text. With the mean gaps of earlier batches, of
  `kdjax.language.likelihood_gap` and of the sign that makes them positive, each
  text has a skew of its own, of at most `skew`; the batch then has
  `"on_policy_label"` too. The authors take the gaps of the first logged
  batches, and raise `beta`, the weight of the student's text, to 1.5; their
  code has adaptive skews, and the growth of beta, switched off.
  """

  def loss(
    student_logits: Array,
    teacher_logits: Array,
    student_on_policy_logits: Array,
    teacher_on_policy_logits: Array,
    batch: Any,
    *,
    skew: ArrayLike,
    beta: ArrayLike,
    reference_gap: ArrayLike | None,
    on_policy_reference_gap: ArrayLike | None,
  ) -> Array:
    skews = [skew, skew]
    pairs = (
      (student_logits, teacher_logits),
      (student_on_policy_logits, teacher_on_policy_logits),
    )
    gaps = reference_gap, on_policy_reference_gap
    for i, (view, sign) in enumerate((("", 1.0), ("on_policy_", -1.0))):
      reference = gaps[i]
      if reference is None:
        continue
      labels = ops.get_entry("distillm2: batch", batch, f"{view}label")
      gap = _likelihood_gap(*pairs[i], labels, batch[f"{view}mask"])
      skews[i] = language.adaptive_skew(sign * gap, reference, skew=skew)
    return language.contrastive_skew_loss(
      student_logits,
      teacher_logits,
      student_on_policy_logits,
      teacher_on_policy_logits,
      batch["mask"],
      batch["on_policy_mask"],
      skew=skews[0],
      on_policy_skew=skews[1],
      beta=beta,
    )

  return stateless(
    loss,
    skew=skew,
    beta=beta,
    reference_gap=reference_gap,
    on_policy_reference_gap=on_policy_reference_gap,
  )


def _likelihood_gap(
  student_logits: Array, teacher_logits: Array, labels: Array, where: Array
) -> Array:
  """Returns the gap of each text, teacher less student."""
  student, teacher = (
    label_log_probs(x, labels) for x in (student_logits, teacher_logits)
  )
  return language.likelihood_gap(student, teacher, where)


ROWS = {
  "distillm2": row(
    "DistiLLM-2, Ko 2025",
    "skew KL on the teacher's text, skew reverse KL on the student's",
    _distillm2,
    views=("on_policy",),
    source="distillm-2, distillm_trainer.py",
  ),
}
