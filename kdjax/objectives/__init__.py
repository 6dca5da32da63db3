"""Objectives: methods with parameters or state, as (init, apply) pairs.

A loss becomes an objective by :func:`stateless`, several become one by
:func:`combine`. Hyper-parameters live in the objective's state, as arrays:
changing one does not recompile, and a sweep is a vmap over states.
"""

from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._preset import Preset
from kdjax.objectives._table import PRESETS
from kdjax.objectives._table import preset
from kdjax.objectives.adaptation._adda import adda
from kdjax.objectives.adaptation._cdac import cdac
from kdjax.objectives.adaptation._cdan import cdan
from kdjax.objectives.adaptation._dann import bsp
from kdjax.objectives.adaptation._dann import dann
from kdjax.objectives.adaptation._dst import dst
from kdjax.objectives.adaptation._flexmatch import flexmatch
from kdjax.objectives.adaptation._jda import jda
from kdjax.objectives.adaptation._mcd import mcd
from kdjax.objectives.adaptation._mdd import mdd
from kdjax.objectives.adaptation._mme import mme
from kdjax.objectives.distillation._crd import crd
from kdjax.objectives.distillation._ctkd import ctkd
from kdjax.objectives.distillation._embedding_relations import cc
from kdjax.objectives.distillation._embedding_relations import crd_in_batch
from kdjax.objectives.distillation._embedding_relations import irg
from kdjax.objectives.distillation._embedding_relations import itrd
from kdjax.objectives.distillation._factor_transfer import factor_transfer
from kdjax.objectives.distillation._factor_transfer import (
  factor_transfer_pretraining,
)
from kdjax.objectives.distillation._layer_attention import afd
from kdjax.objectives.distillation._layer_attention import semckd
from kdjax.objectives.distillation._masked_generation import mgd
from kdjax.objectives.distillation._masked_generation import vitkd
from kdjax.objectives.distillation._ofa import ofa
from kdjax.objectives.distillation._projectors import ickd
from kdjax.objectives.distillation._projectors import ktaad
from kdjax.objectives.distillation._projectors import srd
from kdjax.objectives.distillation._projectors import vkd
from kdjax.objectives.distillation._regressors import ab
from kdjax.objectives.distillation._regressors import fitnet
from kdjax.objectives.distillation._regressors import ofd
from kdjax.objectives.distillation._reused_classifier import cat
from kdjax.objectives.distillation._reused_classifier import simkd
from kdjax.objectives.distillation._reused_classifier import srrl
from kdjax.objectives.distillation._review_kd import review_kd
from kdjax.objectives.distillation._sdd import sdd
from kdjax.objectives.distillation._stage_maps import at
from kdjax.objectives.distillation._stage_maps import fsp
from kdjax.objectives.distillation._stage_maps import kdsvd
from kdjax.objectives.distillation._stage_maps import nst
from kdjax.objectives.distillation._uskd import uskd
from kdjax.objectives.distillation._variances import l2
from kdjax.objectives.distillation._variances import pad_l2
from kdjax.objectives.distillation._variances import vid
from kdjax.objectives.distillation._views import crld
from kdjax.objectives.distillation._views import cskd
from kdjax.objectives.distillation._views import mlld
from kdjax.objectives.distillation._views import sskd
from kdjax.objectives.distillation._wkd import wkd_feature
from kdjax.objectives.distillation._wkd import wkd_logit
from kdjax.objectives.finetuning._bi_tuning import bi_tuning
from kdjax.objectives.finetuning._co_tuning import co_tuning
from kdjax.objectives.finetuning._lwf import lwf

__all__ = (
  "PRESETS",
  "Objective",
  "Preset",
  "ab",
  "adda",
  "afd",
  "at",
  "bi_tuning",
  "bsp",
  "cat",
  "cc",
  "cdac",
  "cdan",
  "co_tuning",
  "combine",
  "crd",
  "crd_in_batch",
  "crld",
  "cskd",
  "ctkd",
  "dann",
  "dst",
  "factor_transfer",
  "factor_transfer_pretraining",
  "fitnet",
  "flexmatch",
  "fsp",
  "ickd",
  "irg",
  "itrd",
  "jda",
  "kdsvd",
  "ktaad",
  "l2",
  "lwf",
  "mcd",
  "mdd",
  "mgd",
  "mlld",
  "mme",
  "modular",
  "nst",
  "ofa",
  "ofd",
  "pad_l2",
  "preset",
  "review_kd",
  "sdd",
  "semckd",
  "simkd",
  "srd",
  "srrl",
  "sskd",
  "stateless",
  "uskd",
  "vid",
  "vitkd",
  "vkd",
  "wkd_feature",
  "wkd_logit",
)
