"""Distillation losses from a teacher to a student: pure functions of arrays.

The losses compare logits, features, relations between examples, and tokens. The
student's arrays come first, then the teacher's, then labels. A loss that is a
sum over examples returns one value an example. A batch-coupled loss takes
`where` and `axis_name` and returns one value for the whole batch.
"""

from kdjax.distillation.features._activation_boundaries import ab_loss
from kdjax.distillation.features._attention_maps import at_loss
from kdjax.distillation.features._class_attention import cat_loss
from kdjax.distillation.features._factor_transfer import factor_transfer_loss
from kdjax.distillation.features._fsp import fsp_loss
from kdjax.distillation.features._hints import hint_loss
from kdjax.distillation.features._ickd import ickd_loss
from kdjax.distillation.features._kdsvd import kdsvd_loss
from kdjax.distillation.features._knowledge_translation import (
  affinity_loss,
  kta_loss,
)
from kdjax.distillation.features._mgd import mgd_loss
from kdjax.distillation.features._nst import nst_loss
from kdjax.distillation.features._ofd import ofd_loss, ofd_margin
from kdjax.distillation.features._pad import pad_l2_loss
from kdjax.distillation.features._review_kd import hierarchical_context_loss
from kdjax.distillation.features._srd import srd_loss
from kdjax.distillation.features._srrl import srrl_loss
from kdjax.distillation.features._vid import vid_loss
from kdjax.distillation.features._vkd import vkd_loss
from kdjax.distillation.features._wkd import wkd_feature_loss
from kdjax.distillation.logits._binary_kl import binary_kl_loss
from kdjax.distillation.logits._crld import crld_loss
from kdjax.distillation.logits._cskd import cskd_loss
from kdjax.distillation.logits._dist import dist_loss
from kdjax.distillation.logits._divergences import (
  generalized_jsd_loss,
  reverse_kl_loss,
  skew_kl_loss,
  skew_reverse_kl_loss,
  symmetric_kl_loss,
  total_variation_loss,
)
from kdjax.distillation.logits._dkd import dkd_loss
from kdjax.distillation.logits._logit_standardization import (
  lskd_loss,
  standardize_logits,
)
from kdjax.distillation.logits._mlld import (
  batch_correlation_loss,
  class_correlation_loss,
  mlld_loss,
)
from kdjax.distillation.logits._nkd import nkd_loss, uskd_loss
from kdjax.distillation.logits._ofa import ofa_loss
from kdjax.distillation.logits._rld import rld_loss
from kdjax.distillation.logits._sdd import regional_logits, sdd_loss
from kdjax.distillation.logits._soft_targets import (
  kd_loss,
  logit_mse_loss,
  soft_target_loss,
)
from kdjax.distillation.logits._teacher_free import virtual_teacher_loss
from kdjax.distillation.logits._temperatures import (
  ctkd_temperature,
  cwsm_temperature,
  flsw_temperature,
)
from kdjax.distillation.logits._ttm import ttm_loss, wttm_loss
from kdjax.distillation.logits._wkd import wkd_class_cost, wkd_logit_loss
from kdjax.distillation.logits._wsld import wsld_loss
from kdjax.distillation.relations._correlation_congruence import cc_loss
from kdjax.distillation.relations._crd import (
  crd_in_batch_loss,
  crd_log_normalizer,
  crd_loss,
  crd_nce_loss,
  crd_normalizer,
)
from kdjax.distillation.relations._irg import irg_loss
from kdjax.distillation.relations._itrd import (
  itrd_correlation_loss,
  itrd_loss,
  itrd_mutual_loss,
)
from kdjax.distillation.relations._pkt import pkt_loss
from kdjax.distillation.relations._rkd import rkd_loss
from kdjax.distillation.relations._similarity_preserving import sp_loss
from kdjax.distillation.relations._sskd import (
  sskd_pretext_loss,
  sskd_similarity_loss,
  sskd_transformed_loss,
)
from kdjax.distillation.tokens._attention_heads import (
  attention_ce_loss,
  attention_mse_loss,
)
from kdjax.distillation.tokens._hidden_states import (
  cosine_embedding_loss,
  gram_loss,
  hidden_mse_loss,
)
from kdjax.distillation.tokens._minilm import minilm_loss, minilm_v2_loss
from kdjax.distillation.tokens._pkd import pkd_loss
from kdjax.distillation.tokens._vitkd import vitkd_loss
from kdjax.ops import log_softened_softmax, softened_softmax

__all__ = (
  "ab_loss",
  "affinity_loss",
  "at_loss",
  "attention_ce_loss",
  "attention_mse_loss",
  "batch_correlation_loss",
  "binary_kl_loss",
  "cat_loss",
  "cc_loss",
  "class_correlation_loss",
  "cosine_embedding_loss",
  "crd_in_batch_loss",
  "crd_log_normalizer",
  "crd_loss",
  "crd_nce_loss",
  "crd_normalizer",
  "crld_loss",
  "cskd_loss",
  "ctkd_temperature",
  "cwsm_temperature",
  "dist_loss",
  "dkd_loss",
  "factor_transfer_loss",
  "flsw_temperature",
  "fsp_loss",
  "generalized_jsd_loss",
  "gram_loss",
  "hidden_mse_loss",
  "hierarchical_context_loss",
  "hint_loss",
  "ickd_loss",
  "irg_loss",
  "itrd_correlation_loss",
  "itrd_loss",
  "itrd_mutual_loss",
  "kd_loss",
  "kdsvd_loss",
  "kta_loss",
  "log_softened_softmax",
  "logit_mse_loss",
  "lskd_loss",
  "mgd_loss",
  "minilm_loss",
  "minilm_v2_loss",
  "mlld_loss",
  "nkd_loss",
  "nst_loss",
  "ofa_loss",
  "ofd_loss",
  "ofd_margin",
  "pad_l2_loss",
  "pkd_loss",
  "pkt_loss",
  "regional_logits",
  "reverse_kl_loss",
  "rkd_loss",
  "rld_loss",
  "sdd_loss",
  "skew_kl_loss",
  "skew_reverse_kl_loss",
  "soft_target_loss",
  "softened_softmax",
  "sp_loss",
  "srd_loss",
  "srrl_loss",
  "sskd_pretext_loss",
  "sskd_similarity_loss",
  "sskd_transformed_loss",
  "standardize_logits",
  "symmetric_kl_loss",
  "total_variation_loss",
  "ttm_loss",
  "uskd_loss",
  "vid_loss",
  "virtual_teacher_loss",
  "vitkd_loss",
  "vkd_loss",
  "wkd_class_cost",
  "wkd_feature_loss",
  "wkd_logit_loss",
  "wsld_loss",
  "wttm_loss",
)
