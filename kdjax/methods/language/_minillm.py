"""MiniLLM."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._log_probs import own_log_probs
from kdjax.methods.language._row_kinds import row


def _minillm(
  *,
  discount: ArrayLike = 0.95,
  clip: ArrayLike = 0.2,
  teacher_share: ArrayLike = 0.2,
) -> Objective:
  """A policy gradient, and the reverse KL of single steps.

  The batch is that of `on_policy_distillation`, of text from the mixture of
  `kdjax.language.teacher_mixed_log_probs`, which `kdjax.nets.generate` writes
  with a teacher and `teacher_share`. Text of the student alone needs
  `teacher_share=0`: the importance weights would be those of another text.

  Departs from the authors' code: there the cross-entropy on other text is
  added.

  References:
    Gu et al., `MiniLLM <https://arxiv.org/abs/2306.08543>`_, 2024.
  """

  def loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    batch: Any,
    *,
    where: Array,
    axis_name: str | None,
    discount: ArrayLike,
    clip: ArrayLike,
    teacher_share: ArrayLike,
  ) -> Array:
    student, teacher, sampling = own_log_probs(
      student_logits, teacher_logits, labels, batch
    )
    advantages = language.minillm_advantages(
      language.token_reverse_kl_advantages(sampling, teacher),
      where,
      discount=discount,
      axis_name=axis_name,
    )
    values = language.policy_gradient_loss(
      student,
      sampling,
      advantages,
      weights=language.teacher_mixed_weights(
        sampling, teacher, teacher_share=teacher_share
      ),
      clip=clip,
    )
    values += distillation.reverse_kl_loss(student_logits, teacher_logits)
    return ops.masked_mean(values, where, axis_name=axis_name)

  return stateless(
    loss, discount=discount, clip=clip, teacher_share=teacher_share
  )


ROWS = {
  "minillm": row(
    "MiniLLM, Gu 2024",
    "policy gradient of the reverse KL over whole texts of the student",
    _minillm,
    source="LMOps/minillm, without the loss on other text",
  ),
}
