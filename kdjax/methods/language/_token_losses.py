"""Methods for language models: of tokens, of own text, of other tokenizers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, ops
from kdjax.methods._objective import Objective, stateless


def distillm2(
  *,
  skew: ArrayLike = 0.1,
  beta: ArrayLike = 1.0,
  reference_gap: ArrayLike | None = None,
  on_policy_reference_gap: ArrayLike | None = None,
) -> Objective:
  """DistiLLM-2: a contrastive pair of the teacher's and the student's texts.

  The view `on_policy` is the student's text; the batch's `"on_policy_mask"`
  marks its positions in the loss, as `"mask"` marks those of the teacher's
  text.

  With the gaps of earlier batches, each text has a skew of its own, of at most
  `skew`. The batch then has the labels of both texts, `"label"` and
  `"on_policy_label"`. The authors take the mean gaps of the first logged
  batches, of `kdjax.language.likelihood_gap`.

  Args:
    skew: lambda of both skew divergences.
    beta: the weight of the student's text; the authors raise it to 1.5.
    reference_gap: the mean gap of the likelihoods of a teacher's text, teacher
      less student; or None for one skew of all of these texts.
    on_policy_reference_gap: the mean gap of a student's text, student less
      teacher; or None for one skew of all of these texts.

  Returns:
    An objective; its published weight is 1. The numbers are part of its state,
    and may be replaced there from step to step. The published code has adaptive
    skews, and the growth of beta, switched off.

  References:
    Ko et al., `DistiLLM-2 <https://arxiv.org/abs/2503.07067>`_, 2025.
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


def on_policy_distillation() -> Objective:
  """On-policy distillation: per-token reverse-KL advantages of own text.

  The batch holds text of the student (`kdjax.nets.generate`): the tokens, their
  labels and mask (`kdjax.language.next_token_targets`), and perhaps
  `"sampling_log_prob"`, the labels' log-probabilities when they were drawn,
  `[batch, length]` (`kdjax.language.next_token_log_probs`). Without these the
  student of the step is taken.

  Returns:
    An objective; its published weight is 1.

  References:
    Lu and Thinking Machines Lab, `On-policy distillation
    <https://thinkingmachines.ai/blog/on-policy-distillation/>`_, 2025.
  """

  def loss(
    student_logits: Array, teacher_logits: Array, labels: Array, batch: Any
  ) -> Array:
    student, teacher, sampling = _own_log_probs(
      student_logits, teacher_logits, labels, batch
    )
    advantages = language.token_reverse_kl_advantages(sampling, teacher)
    return language.policy_gradient_loss(
      student, sampling, advantages, clip=None
    )

  return stateless(loss)


def minillm(
  *,
  discount: ArrayLike = 0.95,
  clip: ArrayLike = 0.2,
  teacher_share: ArrayLike = 0.2,
) -> Objective:
  """MiniLLM: a policy gradient, and the reverse KL of single steps.

  The batch is that of `on_policy_distillation`, of text from the mixture of
  `kdjax.language.teacher_mixed_log_probs`, which `kdjax.nets.generate` writes
  with a teacher and `teacher_share`. Text of the student alone needs
  `teacher_share=0`: the importance weights would be those of another text.

  Args:
    discount: of later rewards.
    clip: of the ratio.
    teacher_share: of the mixture that the text is drawn from; 0 for the
      student's own text.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy on other
    text, which the authors add.

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
    student, teacher, sampling = _own_log_probs(
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


def uld() -> Objective:
  """ULD: a teacher with another tokenizer, by its sorted probabilities.

  The teacher reads text of its own tokens; the batch's `"teacher_mask"` marks
  the positions of its answer, as `"mask"` marks those of the student's.

  Returns:
    An objective; its published weight is 1.5.

  References:
    Boizard et al., `Universal logit distillation
    <https://arxiv.org/abs/2402.12030>`_, 2025.
  """

  def loss(student_logits: Array, teacher_logits: Array, batch: Any) -> Array:
    return language.uld_loss(
      student_logits,
      teacher_logits,
      batch["mask"],
      batch.get("teacher_mask", batch["mask"]),
    )

  return stateless(loss)


def _own_log_probs(
  student_logits: Array, teacher_logits: Array, labels: Array, batch: Any
) -> tuple[Array, Array, Array]:
  """Returns the labels' log-probabilities: student, teacher, when drawn."""
  student, teacher = (
    _label_log_probs(x, labels)
    for x in (student_logits, jax.lax.stop_gradient(teacher_logits))
  )
  sampling = batch.get("sampling_log_prob")
  if sampling is None:
    sampling = jax.lax.stop_gradient(student)
  return student, teacher, sampling


def _likelihood_gap(
  student_logits: Array, teacher_logits: Array, labels: Array, where: Array
) -> Array:
  """Returns the gap of each text, teacher less student."""
  student, teacher = (
    _label_log_probs(x, labels) for x in (student_logits, teacher_logits)
  )
  return language.likelihood_gap(student, teacher, where)


def _label_log_probs(logits: Array, labels: Array) -> Array:
  safe = jnp.clip(labels, 0, logits.shape[-1] - 1)[..., None]
  return jnp.take_along_axis(ops.log_softened_softmax(logits), safe, -1)[..., 0]
