"""Domain adaptation: distances between domains, and losses that reduce them.

Every function is pure: arrays in, arrays out. The `source` and the `target` may
differ in size.
"""

from kdjax.adaptation.adversarial._cdan import (
  cdan_map,
  cdan_matrices,
  cdan_weights,
)
from kdjax.adaptation.adversarial._domain_adversarial import (
  adda_loss,
  dann_loss,
)
from kdjax.adaptation.adversarial._h_divergence import (
  HDivergence,
  h_divergence,
  h_divergence_from_errors,
  soft_h_divergence,
)
from kdjax.adaptation.adversarial._jda import jda_loss
from kdjax.adaptation.adversarial._mcd import classifier_discrepancy
from kdjax.adaptation.adversarial._mdd import mdd_loss, mdd_regression_loss
from kdjax.adaptation.adversarial._open_set import osbp_loss
from kdjax.adaptation.discrepancies._bsp import bsp_loss
from kdjax.adaptation.discrepancies._coral import coral_loss
from kdjax.adaptation.discrepancies._feature_norm import afn_loss, hafn_loss
from kdjax.adaptation.discrepancies._kernels import (
  Gaussian,
  Laplacian,
  Linear,
  Polynomial,
)
from kdjax.adaptation.discrepancies._local_mmd import lmmd
from kdjax.adaptation.discrepancies._mmd import jmmd, mmd
from kdjax.adaptation.discrepancies._moment_matching import cmd_loss, m3sda_loss
from kdjax.adaptation.discrepancies._optimal_transport import (
  deepjdot_loss,
  sinkhorn_divergence,
  sliced_wasserstein,
)
from kdjax.adaptation.discrepancies._rsd import rsd_loss
from kdjax.adaptation.predictions._advent import minent_loss, self_information
from kdjax.adaptation.predictions._bnm import bnm_loss
from kdjax.adaptation.predictions._entropy import (
  class_balance_loss,
  entropy_loss,
  information_maximization_loss,
)
from kdjax.adaptation.predictions._mcc import mcc_loss
from kdjax.adaptation.predictions._regda import (
  KeypointMaps,
  keypoint_loss,
  keypoint_maps,
)
from kdjax.adaptation.self_training._cdac import cdac_loss
from kdjax.adaptation.self_training._confusion_consistency import (
  confusion_consistency_loss,
)
from kdjax.adaptation.self_training._dael import dael_loss
from kdjax.adaptation.self_training._debiasmatch import (
  debias_init,
  debias_logits,
  debias_update,
)
from kdjax.adaptation.self_training._dst import dst_loss
from kdjax.adaptation.self_training._fixmatch import fixmatch_loss
from kdjax.adaptation.self_training._flexmatch import (
  FlexMatchState,
  flexmatch_init,
  flexmatch_thresholds,
  flexmatch_update,
)
from kdjax.adaptation.self_training._gradual_self_training import (
  GradualSelfTraining,
  PseudoLabels,
  confident_pseudo_labels,
  gradual_self_training,
)
from kdjax.adaptation.self_training._mean_teacher import (
  consistency_loss,
  mean_teacher_update,
)
from kdjax.adaptation.self_training._mixmatch import (
  guess_labels,
  mixmatch_loss,
  sharpen,
)
from kdjax.adaptation.self_training._mme import mme_loss, prototype_logits
from kdjax.adaptation.self_training._pseudo_labels import pseudo_label_loss
from kdjax.adaptation.self_training._ramp_up import (
  linear_ramp_up,
  sigmoid_ramp_up,
)
from kdjax.adaptation.self_training._self_ensembling import (
  self_ensembling_balance_loss,
)
from kdjax.adaptation.self_training._self_tuning import (
  SelfTuningQueue,
  self_tuning_init,
  self_tuning_loss,
  self_tuning_update,
)
from kdjax.adaptation.self_training._shot import centroid_pseudo_labels
from kdjax.adaptation.self_training._spherical_kmeans import (
  SphericalKMeans,
  spherical_kmeans,
)
from kdjax.adaptation.self_training._uda import uda_loss

__all__ = (
  "FlexMatchState",
  "Gaussian",
  "GradualSelfTraining",
  "HDivergence",
  "KeypointMaps",
  "Laplacian",
  "Linear",
  "Polynomial",
  "PseudoLabels",
  "SelfTuningQueue",
  "SphericalKMeans",
  "adda_loss",
  "afn_loss",
  "bnm_loss",
  "bsp_loss",
  "cdac_loss",
  "cdan_map",
  "cdan_matrices",
  "cdan_weights",
  "centroid_pseudo_labels",
  "class_balance_loss",
  "classifier_discrepancy",
  "cmd_loss",
  "confident_pseudo_labels",
  "confusion_consistency_loss",
  "consistency_loss",
  "coral_loss",
  "dael_loss",
  "dann_loss",
  "debias_init",
  "debias_logits",
  "debias_update",
  "deepjdot_loss",
  "dst_loss",
  "entropy_loss",
  "fixmatch_loss",
  "flexmatch_init",
  "flexmatch_thresholds",
  "flexmatch_update",
  "gradual_self_training",
  "guess_labels",
  "h_divergence",
  "h_divergence_from_errors",
  "hafn_loss",
  "information_maximization_loss",
  "jda_loss",
  "jmmd",
  "keypoint_loss",
  "keypoint_maps",
  "linear_ramp_up",
  "lmmd",
  "m3sda_loss",
  "mcc_loss",
  "mdd_loss",
  "mdd_regression_loss",
  "mean_teacher_update",
  "minent_loss",
  "mixmatch_loss",
  "mmd",
  "mme_loss",
  "osbp_loss",
  "prototype_logits",
  "pseudo_label_loss",
  "rsd_loss",
  "self_ensembling_balance_loss",
  "self_information",
  "self_tuning_init",
  "self_tuning_loss",
  "self_tuning_update",
  "sharpen",
  "sigmoid_ramp_up",
  "sinkhorn_divergence",
  "sliced_wasserstein",
  "soft_h_divergence",
  "spherical_kmeans",
  "uda_loss",
)
