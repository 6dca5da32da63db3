"""Losses, targets and alignments of language models.

Logits are `[batch, length, vocab]` and masks `[batch, length]`.
Only `next_token_targets` shifts the tokens by one position; no loss shifts. A
loss returns one value a token or an example; `kdjax.ops.masked_mean` divides a
sum over the batch and over devices by the number of valid tokens. Divergences
of rows are in `kdjax.distillation`, those of large vocabularies in
`kdjax.fused`.
"""

from kdjax.language._adaptive_kl import adaptive_kl_loss
from kdjax.language._alm import alm_loss, chunk_log_probs
from kdjax.language._byte_alignment import align_bytes, token_bytes
from kdjax.language._causal_shift import (
  next_token_log_probs,
  next_token_targets,
)
from kdjax.language._distillm import (
  adaptive_skew,
  contrastive_skew_loss,
  likelihood_gap,
)
from kdjax.language._layer_maps import layer_map
from kdjax.language._mined import align_tokens, min_edit_ids, mined_logits
from kdjax.language._on_policy import (
  minillm_advantages,
  policy_gradient_loss,
  teacher_mixed_log_probs,
  teacher_mixed_weights,
  token_reverse_kl_advantages,
)
from kdjax.language._probability_shift import probability_shift
from kdjax.language._schedules import weight_schedule
from kdjax.language._token_mmd import token_mmd_loss
from kdjax.language._uld import uld_loss

__all__ = (
  "adaptive_kl_loss",
  "adaptive_skew",
  "align_bytes",
  "align_tokens",
  "alm_loss",
  "chunk_log_probs",
  "contrastive_skew_loss",
  "layer_map",
  "likelihood_gap",
  "min_edit_ids",
  "mined_logits",
  "minillm_advantages",
  "next_token_log_probs",
  "next_token_targets",
  "policy_gradient_loss",
  "probability_shift",
  "teacher_mixed_log_probs",
  "teacher_mixed_weights",
  "token_bytes",
  "token_mmd_loss",
  "token_reverse_kl_advantages",
  "uld_loss",
  "weight_schedule",
)
