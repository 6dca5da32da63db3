"""Domain adaptation: distances between domains, and losses that reduce them.

Every function is pure: arrays in, arrays out. The `source` and the `target` may
differ in size.
"""

from kdjax.adaptation.adversarial._cdan import cdan_map
from kdjax.adaptation.adversarial._cdan import cdan_matrices
from kdjax.adaptation.adversarial._cdan import cdan_weights
from kdjax.adaptation.adversarial._domain_adversarial import adda_loss
from kdjax.adaptation.adversarial._domain_adversarial import dann_loss
from kdjax.adaptation.adversarial._h_divergence import HDivergence
from kdjax.adaptation.adversarial._h_divergence import h_divergence
from kdjax.adaptation.adversarial._h_divergence import h_divergence_from_errors
from kdjax.adaptation.adversarial._h_divergence import soft_h_divergence
from kdjax.adaptation.adversarial._jda import jda_loss
from kdjax.adaptation.adversarial._mcd import classifier_discrepancy
from kdjax.adaptation.adversarial._mdd import mdd_loss
from kdjax.adaptation.adversarial._mdd import mdd_regression_loss
from kdjax.adaptation.adversarial._open_set import osbp_loss
from kdjax.adaptation.discrepancies._bsp import bsp_loss
from kdjax.adaptation.discrepancies._coral import coral_loss
from kdjax.adaptation.discrepancies._feature_norm import afn_loss
from kdjax.adaptation.discrepancies._feature_norm import hafn_loss
from kdjax.adaptation.discrepancies._kernels import Gaussian
from kdjax.adaptation.discrepancies._kernels import Laplacian
from kdjax.adaptation.discrepancies._kernels import Linear
from kdjax.adaptation.discrepancies._kernels import Polynomial
from kdjax.adaptation.discrepancies._local_mmd import lmmd
from kdjax.adaptation.discrepancies._mmd import jmmd
from kdjax.adaptation.discrepancies._mmd import mmd
from kdjax.adaptation.discrepancies._moment_matching import cmd_loss
from kdjax.adaptation.discrepancies._moment_matching import m3sda_loss
from kdjax.adaptation.discrepancies._optimal_transport import deepjdot_loss
from kdjax.adaptation.discrepancies._optimal_transport import (
  sinkhorn_divergence,
)
from kdjax.adaptation.discrepancies._optimal_transport import sliced_wasserstein
from kdjax.adaptation.discrepancies._rsd import rsd_loss
from kdjax.adaptation.predictions._advent import minent_loss
from kdjax.adaptation.predictions._advent import self_information
from kdjax.adaptation.predictions._bnm import bnm_loss
from kdjax.adaptation.predictions._entropy import class_balance_loss
from kdjax.adaptation.predictions._entropy import entropy_loss
from kdjax.adaptation.predictions._entropy import information_maximization_loss
from kdjax.adaptation.predictions._mcc import mcc_loss
from kdjax.adaptation.predictions._regda import KeypointMaps
from kdjax.adaptation.predictions._regda import keypoint_loss
from kdjax.adaptation.predictions._regda import keypoint_maps
from kdjax.adaptation.self_training._cdac import cdac_loss
from kdjax.adaptation.self_training._confusion_consistency import (
  confusion_consistency_loss,
)
from kdjax.adaptation.self_training._dael import dael_loss
from kdjax.adaptation.self_training._debiasmatch import debias_init
from kdjax.adaptation.self_training._debiasmatch import debias_logits
from kdjax.adaptation.self_training._debiasmatch import debias_update
from kdjax.adaptation.self_training._dst import dst_loss
from kdjax.adaptation.self_training._fixmatch import fixmatch_loss
from kdjax.adaptation.self_training._flexmatch import FlexMatchState
from kdjax.adaptation.self_training._flexmatch import flexmatch_init
from kdjax.adaptation.self_training._flexmatch import flexmatch_thresholds
from kdjax.adaptation.self_training._flexmatch import flexmatch_update
from kdjax.adaptation.self_training._gradual_self_training import (
  GradualSelfTraining,
)
from kdjax.adaptation.self_training._gradual_self_training import PseudoLabels
from kdjax.adaptation.self_training._gradual_self_training import (
  confident_pseudo_labels,
)
from kdjax.adaptation.self_training._gradual_self_training import (
  gradual_self_training,
)
from kdjax.adaptation.self_training._mean_teacher import consistency_loss
from kdjax.adaptation.self_training._mean_teacher import mean_teacher_update
from kdjax.adaptation.self_training._mixmatch import guess_labels
from kdjax.adaptation.self_training._mixmatch import mixmatch_loss
from kdjax.adaptation.self_training._mixmatch import sharpen
from kdjax.adaptation.self_training._mme import mme_loss
from kdjax.adaptation.self_training._mme import prototype_logits
from kdjax.adaptation.self_training._pseudo_labels import pseudo_label_loss
from kdjax.adaptation.self_training._ramp_up import linear_ramp_up
from kdjax.adaptation.self_training._ramp_up import sigmoid_ramp_up
from kdjax.adaptation.self_training._self_ensembling import (
  self_ensembling_balance_loss,
)
from kdjax.adaptation.self_training._self_tuning import SelfTuningQueue
from kdjax.adaptation.self_training._self_tuning import self_tuning_init
from kdjax.adaptation.self_training._self_tuning import self_tuning_loss
from kdjax.adaptation.self_training._self_tuning import self_tuning_update
from kdjax.adaptation.self_training._shot import centroid_pseudo_labels
from kdjax.adaptation.self_training._spherical_kmeans import SphericalKMeans
from kdjax.adaptation.self_training._spherical_kmeans import spherical_kmeans
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
