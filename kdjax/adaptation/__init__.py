"""Domain adaptation: how far apart two domains are, and how to close the gap.

Every function compares a `source` with a `target` sample, whose sizes may
differ, and is pure: arrays in, arrays out.
"""

from kdjax.adaptation._adversarial import adda_loss
from kdjax.adaptation._adversarial import dann_loss
from kdjax.adaptation._boosting import TrAdaBoost
from kdjax.adaptation._boosting import TrAdaBoostUpdate
from kdjax.adaptation._boosting import tradaboost
from kdjax.adaptation._boosting import tradaboost_update
from kdjax.adaptation._boosting_regression import TrAdaBoostR2
from kdjax.adaptation._boosting_regression import TwoStageTrAdaBoostR2
from kdjax.adaptation._boosting_regression import tradaboost_r2
from kdjax.adaptation._boosting_regression import two_stage_tradaboost_r2
from kdjax.adaptation._class_weights import bbse_weights
from kdjax.adaptation._class_weights import pada_class_weights
from kdjax.adaptation._classifiers import classifier_discrepancy
from kdjax.adaptation._classifiers import mdd_loss
from kdjax.adaptation._classifiers import mdd_regression_loss
from kdjax.adaptation._clusters import SphericalKMeans
from kdjax.adaptation._clusters import centroid_pseudo_labels
from kdjax.adaptation._clusters import spherical_kmeans
from kdjax.adaptation._component_maps import ComponentMap
from kdjax.adaptation._components import jda_transform
from kdjax.adaptation._components import tca
from kdjax.adaptation._conditional import cdan_map
from kdjax.adaptation._conditional import cdan_matrices
from kdjax.adaptation._conditional import cdan_weights
from kdjax.adaptation._consistency import consistency_loss
from kdjax.adaptation._consistency import linear_ramp_up
from kdjax.adaptation._consistency import mean_teacher_update
from kdjax.adaptation._consistency import self_ensembling_balance_loss
from kdjax.adaptation._consistency import sigmoid_ramp_up
from kdjax.adaptation._coral import coral_loss
from kdjax.adaptation._dense import KeypointMaps
from kdjax.adaptation._dense import keypoint_loss
from kdjax.adaptation._dense import keypoint_maps
from kdjax.adaptation._dense import minent_loss
from kdjax.adaptation._dense import self_information
from kdjax.adaptation._density_ratios import kliep_weights
from kdjax.adaptation._density_ratios import ulsif_weights
from kdjax.adaptation._domain_weights import discriminator_weights
from kdjax.adaptation._domain_weights import iwan_weights
from kdjax.adaptation._experts import dael_loss
from kdjax.adaptation._feature_norm import afn_loss
from kdjax.adaptation._feature_norm import hafn_loss
from kdjax.adaptation._flexmatch import FlexMatchState
from kdjax.adaptation._flexmatch import debias_logits
from kdjax.adaptation._flexmatch import debias_update
from kdjax.adaptation._flexmatch import flexmatch_init
from kdjax.adaptation._flexmatch import flexmatch_thresholds
from kdjax.adaptation._flexmatch import flexmatch_update
from kdjax.adaptation._gradual import GradualSelfTraining
from kdjax.adaptation._gradual import PseudoLabels
from kdjax.adaptation._gradual import confident_pseudo_labels
from kdjax.adaptation._gradual import gradual_self_training
from kdjax.adaptation._guarded_weight import GuardedWeight
from kdjax.adaptation._guarded_weight import GuardedWeightState
from kdjax.adaptation._guessing import guess_labels
from kdjax.adaptation._guessing import mixmatch_loss
from kdjax.adaptation._guessing import sharpen
from kdjax.adaptation._h_divergence import HDivergence
from kdjax.adaptation._h_divergence import h_divergence
from kdjax.adaptation._inputs import NormStatistics
from kdjax.adaptation._inputs import adabn_normalize
from kdjax.adaptation._inputs import adabn_statistics
from kdjax.adaptation._inputs import fourier_domain_adaptation
from kdjax.adaptation._interpolation import InterpolatedDomains
from kdjax.adaptation._interpolation import interpolate_domains
from kdjax.adaptation._joint_adaptation import h_divergence_from_errors
from kdjax.adaptation._joint_adaptation import jda_loss
from kdjax.adaptation._joint_adaptation import soft_h_divergence
from kdjax.adaptation._local_mmd import lmmd
from kdjax.adaptation._maps import AffineMap
from kdjax.adaptation._maps import coral_transform
from kdjax.adaptation._maps import linear_ot
from kdjax.adaptation._mean_matching import kmm_weights
from kdjax.adaptation._mean_matching import target_shift_weights
from kdjax.adaptation._minimax import cdac_loss
from kdjax.adaptation._minimax import mme_loss
from kdjax.adaptation._minimax import prototype_logits
from kdjax.adaptation._mmd import jmmd
from kdjax.adaptation._mmd import mmd
from kdjax.adaptation._moments import cmd_loss
from kdjax.adaptation._moments import m3sda_loss
from kdjax.adaptation._negative_transfer import NegativeTransferTest
from kdjax.adaptation._negative_transfer import TransferGain
from kdjax.adaptation._negative_transfer import negative_transfer_test
from kdjax.adaptation._negative_transfer import transfer_gain
from kdjax.adaptation._open_set import osbp_loss
from kdjax.adaptation._predictions import class_balance_loss
from kdjax.adaptation._predictions import entropy_loss
from kdjax.adaptation._predictions import information_maximization_loss
from kdjax.adaptation._predictions import mcc_loss
from kdjax.adaptation._self_training import fixmatch_loss
from kdjax.adaptation._self_training import pseudo_label_loss
from kdjax.adaptation._self_training import uda_loss
from kdjax.adaptation._self_tuning import SelfTuningQueue
from kdjax.adaptation._self_tuning import self_tuning_init
from kdjax.adaptation._self_tuning import self_tuning_loss
from kdjax.adaptation._self_tuning import self_tuning_update
from kdjax.adaptation._source_scores import dev_score
from kdjax.adaptation._source_scores import importance_weighted_score
from kdjax.adaptation._source_scores import reverse_validation
from kdjax.adaptation._spectral import bnm_loss
from kdjax.adaptation._spectral import bsp_loss
from kdjax.adaptation._spectral import rsd_loss
from kdjax.adaptation._subspaces import gfk
from kdjax.adaptation._subspaces import subspace_alignment
from kdjax.adaptation._target_scores import SCORES
from kdjax.adaptation._target_scores import bnm_score
from kdjax.adaptation._target_scores import entropy_score
from kdjax.adaptation._target_scores import im_score
from kdjax.adaptation._target_scores import snd_score
from kdjax.adaptation._transport import deepjdot_loss
from kdjax.adaptation._transport import sinkhorn_divergence
from kdjax.adaptation._transport import sliced_wasserstein
from kdjax.adaptation._worst_case import confusion_consistency_loss
from kdjax.adaptation._worst_case import dst_loss

__all__ = (
  "SCORES",
  "AffineMap",
  "ComponentMap",
  "FlexMatchState",
  "GradualSelfTraining",
  "GuardedWeight",
  "GuardedWeightState",
  "HDivergence",
  "InterpolatedDomains",
  "KeypointMaps",
  "NegativeTransferTest",
  "NormStatistics",
  "PseudoLabels",
  "SelfTuningQueue",
  "SphericalKMeans",
  "TrAdaBoost",
  "TrAdaBoostR2",
  "TrAdaBoostUpdate",
  "TransferGain",
  "TwoStageTrAdaBoostR2",
  "adabn_normalize",
  "adabn_statistics",
  "adda_loss",
  "afn_loss",
  "bbse_weights",
  "bnm_loss",
  "bnm_score",
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
  "coral_transform",
  "dael_loss",
  "dann_loss",
  "debias_logits",
  "debias_update",
  "deepjdot_loss",
  "dev_score",
  "discriminator_weights",
  "dst_loss",
  "entropy_loss",
  "entropy_score",
  "fixmatch_loss",
  "flexmatch_init",
  "flexmatch_thresholds",
  "flexmatch_update",
  "fourier_domain_adaptation",
  "gfk",
  "gradual_self_training",
  "guess_labels",
  "h_divergence",
  "h_divergence_from_errors",
  "hafn_loss",
  "im_score",
  "importance_weighted_score",
  "information_maximization_loss",
  "interpolate_domains",
  "iwan_weights",
  "jda_loss",
  "jda_transform",
  "jmmd",
  "keypoint_loss",
  "keypoint_maps",
  "kliep_weights",
  "kmm_weights",
  "linear_ot",
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
  "negative_transfer_test",
  "osbp_loss",
  "pada_class_weights",
  "prototype_logits",
  "pseudo_label_loss",
  "reverse_validation",
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
  "snd_score",
  "soft_h_divergence",
  "spherical_kmeans",
  "subspace_alignment",
  "target_shift_weights",
  "tca",
  "tradaboost",
  "tradaboost_r2",
  "tradaboost_update",
  "transfer_gain",
  "two_stage_tradaboost_r2",
  "uda_loss",
  "ulsif_weights",
)
