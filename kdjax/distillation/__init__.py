"""From a teacher to a student: losses on logits.

Every loss takes the student's arrays first, then the teacher's, then labels,
and returns one value an example.
"""

from kdjax.distillation._activation_boundaries import ab_loss
from kdjax.distillation._activation_boundaries import ofd_loss
from kdjax.distillation._activation_boundaries import ofd_margin
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
from kdjax.distillation._hints import hierarchical_context_loss
from kdjax.distillation._hints import hint_loss
from kdjax.distillation._logits import kd_loss
from kdjax.distillation._logits import logit_mse_loss
from kdjax.distillation._logits import soft_target_loss
from kdjax.distillation._normalized_maps import at_loss
from kdjax.distillation._normalized_maps import factor_transfer_loss
from kdjax.distillation._normalized_maps import nst_loss
from kdjax.distillation._standardized import lskd_loss
from kdjax.distillation._standardized import standardize_logits
from kdjax.distillation._transformed import ofa_loss
from kdjax.distillation._transformed import ttm_loss
from kdjax.distillation._transformed import wttm_loss
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax

__all__ = (
  "ab_loss",
  "at_loss",
  "batch_correlation_loss",
  "class_correlation_loss",
  "dist_loss",
  "dkd_loss",
  "factor_transfer_loss",
  "fsp_loss",
  "generalized_jsd_loss",
  "hierarchical_context_loss",
  "hint_loss",
  "kd_loss",
  "kdsvd_loss",
  "log_softened_softmax",
  "logit_mse_loss",
  "lskd_loss",
  "mlld_loss",
  "nkd_loss",
  "nst_loss",
  "ofa_loss",
  "ofd_loss",
  "ofd_margin",
  "reverse_kl_loss",
  "skew_kl_loss",
  "skew_reverse_kl_loss",
  "soft_target_loss",
  "softened_softmax",
  "standardize_logits",
  "symmetric_kl_loss",
  "total_variation_loss",
  "ttm_loss",
  "uskd_loss",
  "wttm_loss",
)
