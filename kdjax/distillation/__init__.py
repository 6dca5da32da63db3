"""From a teacher to a student: pure losses, arrays in, arrays out.

On logits, features, relations between examples, contrasts and tokens. The
student's arrays come first, then the teacher's, then labels. A loss that is a
sum over examples returns one value an example; one that is not takes `where`
and `axis_name` and returns the value of the whole batch.
"""

from kdjax.distillation._activation_boundaries import ab_loss
from kdjax.distillation._activation_boundaries import ofd_loss
from kdjax.distillation._activation_boundaries import ofd_margin
from kdjax.distillation._attention import attention_ce_loss
from kdjax.distillation._attention import attention_mse_loss
from kdjax.distillation._attention import minilm_loss
from kdjax.distillation._attention import minilm_v2_loss
from kdjax.distillation._channels import affinity_loss
from kdjax.distillation._channels import ickd_loss
from kdjax.distillation._channels import kta_loss
from kdjax.distillation._class_activation import cat_loss
from kdjax.distillation._contrastive import crd_in_batch_loss
from kdjax.distillation._contrastive import crd_loss
from kdjax.distillation._contrastive import crd_normalizer
from kdjax.distillation._correlations import batch_correlation_loss
from kdjax.distillation._correlations import class_correlation_loss
from kdjax.distillation._correlations import dist_loss
from kdjax.distillation._correlations import mlld_loss
from kdjax.distillation._decoupled import dkd_loss
from kdjax.distillation._decoupled import nkd_loss
from kdjax.distillation._decoupled import uskd_loss
from kdjax.distillation._divergences import generalized_jsd_loss
from kdjax.distillation._divergences import reverse_kl_loss
from kdjax.distillation._divergences import skew_kl_loss
from kdjax.distillation._divergences import skew_reverse_kl_loss
from kdjax.distillation._divergences import symmetric_kl_loss
from kdjax.distillation._divergences import total_variation_loss
from kdjax.distillation._flow import fsp_loss
from kdjax.distillation._flow import kdsvd_loss
from kdjax.distillation._gaussian import pad_l2_loss
from kdjax.distillation._gaussian import vid_loss
from kdjax.distillation._generation import mgd_loss
from kdjax.distillation._generation import vitkd_loss
from kdjax.distillation._hints import hierarchical_context_loss
from kdjax.distillation._hints import hint_loss
from kdjax.distillation._information import itrd_correlation_loss
from kdjax.distillation._information import itrd_loss
from kdjax.distillation._information import itrd_mutual_loss
from kdjax.distillation._instance_graph import irg_loss
from kdjax.distillation._logits import binary_kl_loss
from kdjax.distillation._logits import kd_loss
from kdjax.distillation._logits import logit_mse_loss
from kdjax.distillation._logits import soft_target_loss
from kdjax.distillation._normalized_maps import at_loss
from kdjax.distillation._normalized_maps import factor_transfer_loss
from kdjax.distillation._normalized_maps import nst_loss
from kdjax.distillation._projected import srd_loss
from kdjax.distillation._projected import srrl_loss
from kdjax.distillation._projected import vkd_loss
from kdjax.distillation._relations import cc_loss
from kdjax.distillation._relations import pkt_loss
from kdjax.distillation._relations import rkd_loss
from kdjax.distillation._relations import sp_loss
from kdjax.distillation._scales import regional_logits
from kdjax.distillation._scales import sdd_loss
from kdjax.distillation._self import cskd_loss
from kdjax.distillation._self import virtual_teacher_loss
from kdjax.distillation._self_supervised import sskd_pretext_loss
from kdjax.distillation._self_supervised import sskd_similarity_loss
from kdjax.distillation._self_supervised import sskd_transformed_loss
from kdjax.distillation._standardized import lskd_loss
from kdjax.distillation._standardized import standardize_logits
from kdjax.distillation._temperatures import ctkd_temperature
from kdjax.distillation._temperatures import cwsm_temperature
from kdjax.distillation._temperatures import flsw_temperature
from kdjax.distillation._tokens import cosine_embedding_loss
from kdjax.distillation._tokens import gram_loss
from kdjax.distillation._tokens import hidden_mse_loss
from kdjax.distillation._tokens import pkd_loss
from kdjax.distillation._transformed import ofa_loss
from kdjax.distillation._transformed import ttm_loss
from kdjax.distillation._transformed import wttm_loss
from kdjax.distillation._transport import wkd_class_cost
from kdjax.distillation._transport import wkd_feature_loss
from kdjax.distillation._transport import wkd_logit_loss
from kdjax.distillation._trust import crld_loss
from kdjax.distillation._trust import rld_loss
from kdjax.distillation._trust import wsld_loss
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax

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
  "crd_loss",
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
