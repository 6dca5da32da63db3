"""On-policy distillation."""

from typing import Any

from jaxtyping import Array

from kdjax import language
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._log_probs import own_log_probs
from kdjax.methods.language._row_kinds import row


def _on_policy_distillation() -> Objective:
  """By `kdjax.language.policy_gradient_loss`, with reverse-KL advantages.

  The batch holds text of the student (`kdjax.nets.generate`): the tokens, their
  labels and mask (`kdjax.language.next_token_targets`), and perhaps
  `"sampling_log_prob"` `[batch, length]`, the labels' log-probabilities when
  they were drawn (`kdjax.language.next_token_log_probs`). Without these the
  student of the step is taken.
  """

  def loss(
    student_logits: Array, teacher_logits: Array, labels: Array, batch: Any
  ) -> Array:
    student, teacher, sampling = own_log_probs(
      student_logits, teacher_logits, labels, batch
    )
    advantages = language.token_reverse_kl_advantages(sampling, teacher)
    return language.policy_gradient_loss(
      student, sampling, advantages, clip=None
    )

  return stateless(loss)


ROWS = {
  "on_policy_distillation": row(
    "on-policy distillation, Lu 2025",
    "policy gradient with each token's log-ratio as its advantage",
    _on_policy_distillation,
    source="tinker-cookbook, train_on_policy.py",
  ),
}
