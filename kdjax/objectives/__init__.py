"""Objectives: methods with parameters or state, as (init, apply) pairs.

A loss becomes an objective by `stateless`, several become one by
`combine`. Hyper-parameters live in the objective's state, as arrays:
changing one does not recompile, and a sweep is a vmap over states.
"""

from kdjax.objectives._gradient_rule import GradientRule
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import loss_metric
from kdjax.objectives._objective import stateless
from kdjax.objectives._pass import Pass
from kdjax.objectives._preset import Preset
from kdjax.objectives._preset import Search
from kdjax.objectives._table import PRESETS
from kdjax.objectives._table import preset
from kdjax.objectives.adaptation._fda import fda_batch
from kdjax.objectives.adaptation._views import domain_views
from kdjax.objectives.adaptation.adversarial._adda import adda
from kdjax.objectives.adaptation.adversarial._advent import advent
from kdjax.objectives.adaptation.adversarial._cdan import cdan
from kdjax.objectives.adaptation.adversarial._dann import bsp
from kdjax.objectives.adaptation.adversarial._dann import dann
from kdjax.objectives.adaptation.adversarial._iwan import iwan
from kdjax.objectives.adaptation.adversarial._jda import jda
from kdjax.objectives.adaptation.adversarial._mcd import mcd
from kdjax.objectives.adaptation.adversarial._mdd import mdd
from kdjax.objectives.adaptation.adversarial._osbp import osbp
from kdjax.objectives.adaptation.adversarial._pada import pada
from kdjax.objectives.adaptation.self_training._cdac import cdac
from kdjax.objectives.adaptation.self_training._dael import dael
from kdjax.objectives.adaptation.self_training._debiasmatch import debiasmatch
from kdjax.objectives.adaptation.self_training._dst import dst
from kdjax.objectives.adaptation.self_training._flexmatch import flexmatch
from kdjax.objectives.adaptation.self_training._gradual_self_training import (
  gradual_self_training,
)
from kdjax.objectives.adaptation.self_training._mixmatch import mixmatch
from kdjax.objectives.adaptation.self_training._mixmatch import mixmatch_batch
from kdjax.objectives.adaptation.self_training._mme import mme
from kdjax.objectives.adaptation.self_training._self_tuning import self_tuning
from kdjax.objectives.adaptation.self_training._shot import shot
from kdjax.objectives.collaboration._progressive import sandwich_views
from kdjax.objectives.distillation.features._ab_ofd import ab
from kdjax.objectives.distillation.features._ab_ofd import ofd
from kdjax.objectives.distillation.features._afd import afd
from kdjax.objectives.distillation.features._at_nst_fsp_kdsvd import at
from kdjax.objectives.distillation.features._at_nst_fsp_kdsvd import fsp
from kdjax.objectives.distillation.features._at_nst_fsp_kdsvd import kdsvd
from kdjax.objectives.distillation.features._at_nst_fsp_kdsvd import nst
from kdjax.objectives.distillation.features._cat import cat
from kdjax.objectives.distillation.features._factor_transfer import (
  factor_transfer,
)
from kdjax.objectives.distillation.features._factor_transfer import (
  factor_transfer_pretraining,
)
from kdjax.objectives.distillation.features._fitnet import fitnet
from kdjax.objectives.distillation.features._ickd_ktaad import ickd
from kdjax.objectives.distillation.features._ickd_ktaad import ktaad
from kdjax.objectives.distillation.features._l2_pad import l2
from kdjax.objectives.distillation.features._l2_pad import pad_l2
from kdjax.objectives.distillation.features._mgd import mgd
from kdjax.objectives.distillation.features._review_kd import review_kd
from kdjax.objectives.distillation.features._semckd import semckd
from kdjax.objectives.distillation.features._simkd_srrl import simkd
from kdjax.objectives.distillation.features._simkd_srrl import srrl
from kdjax.objectives.distillation.features._srd_vkd import srd
from kdjax.objectives.distillation.features._srd_vkd import vkd
from kdjax.objectives.distillation.features._vid import vid
from kdjax.objectives.distillation.features._wkd import wkd_feature
from kdjax.objectives.distillation.features._wkd import wkd_logit
from kdjax.objectives.distillation.logits._crld_cskd_mlld import crld
from kdjax.objectives.distillation.logits._crld_cskd_mlld import cskd
from kdjax.objectives.distillation.logits._crld_cskd_mlld import mlld
from kdjax.objectives.distillation.logits._ctkd import ctkd
from kdjax.objectives.distillation.logits._ofa import ofa
from kdjax.objectives.distillation.logits._sdd import sdd
from kdjax.objectives.distillation.logits._uskd import uskd
from kdjax.objectives.distillation.relations._cc import cc
from kdjax.objectives.distillation.relations._crd import crd
from kdjax.objectives.distillation.relations._crd import crd_in_batch
from kdjax.objectives.distillation.relations._irg_itrd import irg
from kdjax.objectives.distillation.relations._irg_itrd import itrd
from kdjax.objectives.distillation.relations._sskd import sskd
from kdjax.objectives.distillation.tokens._vitkd import vitkd
from kdjax.objectives.finetuning._bi_tuning import bi_tuning
from kdjax.objectives.finetuning._co_tuning import co_tuning
from kdjax.objectives.finetuning._delta import delta
from kdjax.objectives.finetuning._l2_sp import l2_sp
from kdjax.objectives.finetuning._lwf import lwf
from kdjax.objectives.finetuning._prototypical import prototypical
from kdjax.objectives.generalization._andmask import andmask_gradients
from kdjax.objectives.generalization._andmask import sandmask_gradients
from kdjax.objectives.generalization._crossgrad import crossgrad
from kdjax.objectives.generalization._crossgrad import crossgrad_batch
from kdjax.objectives.generalization._dael import dael_dg
from kdjax.objectives.generalization._ddaig import ddaig
from kdjax.objectives.generalization._ddaig import ddaig_batch
from kdjax.objectives.generalization._difex import difex
from kdjax.objectives.generalization._difex import difex_batch
from kdjax.objectives.generalization._fish import fish_gradients
from kdjax.objectives.generalization._fishr import fishr
from kdjax.objectives.generalization._group_dro import group_dro
from kdjax.objectives.generalization._irm import irm
from kdjax.objectives.generalization._mixup import domainmix_batch
from kdjax.objectives.generalization._mixup import mixed
from kdjax.objectives.generalization._mixup import mixup_batch
from kdjax.objectives.generalization._mldg import mldg_gradients
from kdjax.objectives.generalization._rsc import rsc
from kdjax.objectives.generalization._sagnet import sagnet
from kdjax.objectives.generalization._vrex import vrex
from kdjax.objectives.language._dskd import dskd
from kdjax.objectives.language._dskd import dskd_cma
from kdjax.objectives.language._intermediate_matches import intermediate_matches
from kdjax.objectives.language._intermediate_matches import textbrewer
from kdjax.objectives.language._token_losses import minillm
from kdjax.objectives.language._transformers import tinybert_layers

__all__ = (
  "PRESETS",
  "GradientRule",
  "Objective",
  "Pass",
  "Preset",
  "Search",
  "ab",
  "adda",
  "advent",
  "afd",
  "andmask_gradients",
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
  "crossgrad",
  "crossgrad_batch",
  "cskd",
  "ctkd",
  "dael",
  "dael_dg",
  "dann",
  "ddaig",
  "ddaig_batch",
  "debiasmatch",
  "delta",
  "difex",
  "difex_batch",
  "domain_views",
  "domainmix_batch",
  "dskd",
  "dskd_cma",
  "dst",
  "factor_transfer",
  "factor_transfer_pretraining",
  "fda_batch",
  "fish_gradients",
  "fishr",
  "fitnet",
  "flexmatch",
  "fsp",
  "gradual_self_training",
  "group_dro",
  "ickd",
  "intermediate_matches",
  "irg",
  "irm",
  "itrd",
  "iwan",
  "jda",
  "kdsvd",
  "ktaad",
  "l2",
  "l2_sp",
  "loss_metric",
  "lwf",
  "mcd",
  "mdd",
  "mgd",
  "minillm",
  "mixed",
  "mixmatch",
  "mixmatch_batch",
  "mixup_batch",
  "mldg_gradients",
  "mlld",
  "mme",
  "modular",
  "nst",
  "ofa",
  "ofd",
  "osbp",
  "pad_l2",
  "pada",
  "preset",
  "prototypical",
  "review_kd",
  "rsc",
  "sagnet",
  "sandmask_gradients",
  "sandwich_views",
  "sdd",
  "self_tuning",
  "semckd",
  "shot",
  "simkd",
  "srd",
  "srrl",
  "sskd",
  "stateless",
  "textbrewer",
  "tinybert_layers",
  "uskd",
  "vid",
  "vitkd",
  "vkd",
  "vrex",
  "wkd_feature",
  "wkd_logit",
)
