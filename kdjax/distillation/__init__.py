"""From a teacher to a student: losses on logits.

Every loss takes the student's arrays first, then the teacher's, then labels,
and returns one value an example.
"""

from kdjax.distillation._divergences import generalized_jsd_loss
from kdjax.distillation._divergences import reverse_kl_loss
from kdjax.distillation._divergences import skew_kl_loss
from kdjax.distillation._divergences import skew_reverse_kl_loss
from kdjax.distillation._divergences import symmetric_kl_loss
from kdjax.distillation._divergences import total_variation_loss
from kdjax.distillation._logits import kd_loss
from kdjax.distillation._logits import logit_mse_loss
from kdjax.distillation._logits import soft_target_loss
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax

__all__ = (
  "generalized_jsd_loss",
  "kd_loss",
  "log_softened_softmax",
  "logit_mse_loss",
  "reverse_kl_loss",
  "skew_kl_loss",
  "skew_reverse_kl_loss",
  "soft_target_loss",
  "softened_softmax",
  "symmetric_kl_loss",
  "total_variation_loss",
)
