"""Domain adaptation: how far apart two domains are, and how to close the gap.

Every function compares a `source` with a `target` sample, whose sizes may
differ, and is pure: arrays in, arrays out.
"""

from kdjax.adaptation._adversarial import adda_loss
from kdjax.adaptation._adversarial import dann_loss
from kdjax.adaptation._classifiers import classifier_discrepancy
from kdjax.adaptation._classifiers import mdd_loss
from kdjax.adaptation._classifiers import mdd_regression_loss
from kdjax.adaptation._conditional import cdan_map
from kdjax.adaptation._conditional import cdan_matrices
from kdjax.adaptation._conditional import cdan_weights
from kdjax.adaptation._coral import coral_loss
from kdjax.adaptation._feature_norm import afn_loss
from kdjax.adaptation._feature_norm import hafn_loss
from kdjax.adaptation._h_divergence import HDivergence
from kdjax.adaptation._h_divergence import h_divergence
from kdjax.adaptation._joint_adaptation import h_divergence_from_errors
from kdjax.adaptation._joint_adaptation import jda_loss
from kdjax.adaptation._joint_adaptation import soft_h_divergence
from kdjax.adaptation._local_mmd import lmmd
from kdjax.adaptation._mmd import jmmd
from kdjax.adaptation._mmd import mmd
from kdjax.adaptation._moments import cmd_loss
from kdjax.adaptation._moments import m3sda_loss
from kdjax.adaptation._predictions import class_balance_loss
from kdjax.adaptation._predictions import entropy_loss
from kdjax.adaptation._predictions import information_maximization_loss
from kdjax.adaptation._predictions import mcc_loss
from kdjax.adaptation._spectral import bnm_loss
from kdjax.adaptation._spectral import bsp_loss
from kdjax.adaptation._spectral import rsd_loss
from kdjax.adaptation._transport import deepjdot_loss
from kdjax.adaptation._transport import sinkhorn_divergence
from kdjax.adaptation._transport import sliced_wasserstein

__all__ = (
  "HDivergence",
  "adda_loss",
  "afn_loss",
  "bnm_loss",
  "bsp_loss",
  "cdan_map",
  "cdan_matrices",
  "cdan_weights",
  "class_balance_loss",
  "classifier_discrepancy",
  "cmd_loss",
  "coral_loss",
  "dann_loss",
  "deepjdot_loss",
  "entropy_loss",
  "h_divergence",
  "h_divergence_from_errors",
  "hafn_loss",
  "information_maximization_loss",
  "jda_loss",
  "jmmd",
  "lmmd",
  "m3sda_loss",
  "mcc_loss",
  "mdd_loss",
  "mdd_regression_loss",
  "mmd",
  "rsd_loss",
  "sinkhorn_divergence",
  "sliced_wasserstein",
  "soft_h_divergence",
)
