"""Importance weights of source examples and classes.

Density ratios, label shift, partial domain adaptation and boosting. Weights of
rows are not negative, have mean 1 over the unmasked rows, and get no gradient.
"""

from kdjax.reweighting._density_ratios import kliep_weights, ulsif_weights
from kdjax.reweighting._domain_discriminator import discriminator_weights
from kdjax.reweighting._iwan import iwan_weights
from kdjax.reweighting._kernel_mean_matching import kmm_weights
from kdjax.reweighting._label_shift import bbse_weights
from kdjax.reweighting._pada import pada_class_weights
from kdjax.reweighting._target_shift import target_shift_weights
from kdjax.reweighting._tradaboost import (
  TrAdaBoost,
  TrAdaBoostState,
  tradaboost,
  tradaboost_init,
  tradaboost_update,
)
from kdjax.reweighting._tradaboost_r2 import (
  TrAdaBoostR2,
  TwoStageTrAdaBoostR2,
  tradaboost_r2,
  two_stage_tradaboost_r2,
)

__all__ = (
  "TrAdaBoost",
  "TrAdaBoostR2",
  "TrAdaBoostState",
  "TwoStageTrAdaBoostR2",
  "bbse_weights",
  "discriminator_weights",
  "iwan_weights",
  "kliep_weights",
  "kmm_weights",
  "pada_class_weights",
  "target_shift_weights",
  "tradaboost",
  "tradaboost_init",
  "tradaboost_r2",
  "tradaboost_update",
  "two_stage_tradaboost_r2",
  "ulsif_weights",
)
