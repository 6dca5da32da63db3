"""Objectives: methods with parameters or state, as (init, apply) pairs.

A loss becomes an objective by `stateless`, several become one by
`combine`. Hyper-parameters live in the objective's state, as arrays:
changing one does not recompile, and a sweep is a vmap over states.
"""

from kdjax.methods._gradient_rule import GradientRule
from kdjax.methods._modular import modular
from kdjax.methods._objective import (
  Objective,
  combine,
  loss_metric,
  stateless,
)
from kdjax.methods._pass import Pass
from kdjax.methods._preset import Preset, Search
from kdjax.methods._table import PRESETS, preset
from kdjax.methods.adaptation._fda import fda_batch
from kdjax.methods.adaptation._views import domain_views
from kdjax.methods.adaptation.adversarial._adda import adda
from kdjax.methods.adaptation.adversarial._advent import advent
from kdjax.methods.adaptation.adversarial._cdan import cdan
from kdjax.methods.adaptation.adversarial._dann import bsp, dann
from kdjax.methods.adaptation.adversarial._iwan import iwan
from kdjax.methods.adaptation.adversarial._jda import jda
from kdjax.methods.adaptation.adversarial._mcd import mcd
from kdjax.methods.adaptation.adversarial._mdd import mdd
from kdjax.methods.adaptation.adversarial._osbp import osbp
from kdjax.methods.adaptation.adversarial._pada import pada
from kdjax.methods.adaptation.self_training._cdac import cdac
from kdjax.methods.adaptation.self_training._dael import dael
from kdjax.methods.adaptation.self_training._debiasmatch import debiasmatch
from kdjax.methods.adaptation.self_training._dst import dst
from kdjax.methods.adaptation.self_training._flexmatch import flexmatch
from kdjax.methods.adaptation.self_training._gradual_self_training import (
  gradual_self_training,
)
from kdjax.methods.adaptation.self_training._mixmatch import (
  mixmatch,
  mixmatch_batch,
)
from kdjax.methods.adaptation.self_training._mme import mme
from kdjax.methods.adaptation.self_training._self_tuning import self_tuning
from kdjax.methods.adaptation.self_training._shot import shot
from kdjax.methods.collaboration._progressive import sandwich_views
from kdjax.methods.distillation.features._ab_ofd import ab, ofd
from kdjax.methods.distillation.features._afd import afd
from kdjax.methods.distillation.features._at_nst_fsp_kdsvd import (
  at,
  fsp,
  kdsvd,
  nst,
)
from kdjax.methods.distillation.features._cat import cat
from kdjax.methods.distillation.features._factor_transfer import (
  factor_transfer,
  factor_transfer_pretraining,
)
from kdjax.methods.distillation.features._fitnet import fitnet
from kdjax.methods.distillation.features._ickd_ktaad import ickd, ktaad
from kdjax.methods.distillation.features._l2_pad import l2, pad_l2
from kdjax.methods.distillation.features._mgd import mgd
from kdjax.methods.distillation.features._review_kd import review_kd
from kdjax.methods.distillation.features._semckd import semckd
from kdjax.methods.distillation.features._simkd_srrl import simkd, srrl
from kdjax.methods.distillation.features._srd_vkd import srd, vkd
from kdjax.methods.distillation.features._vid import vid
from kdjax.methods.distillation.features._wkd import wkd_feature, wkd_logit
from kdjax.methods.distillation.logits._crld_cskd_mlld import (
  crld,
  cskd,
  mlld,
)
from kdjax.methods.distillation.logits._ctkd import ctkd
from kdjax.methods.distillation.logits._ofa import ofa
from kdjax.methods.distillation.logits._sdd import sdd
from kdjax.methods.distillation.logits._uskd import uskd
from kdjax.methods.distillation.relations._cc import cc
from kdjax.methods.distillation.relations._crd import crd, crd_in_batch
from kdjax.methods.distillation.relations._irg_itrd import irg, itrd
from kdjax.methods.distillation.relations._sskd import sskd
from kdjax.methods.distillation.tokens._vitkd import vitkd
from kdjax.methods.finetuning._bi_tuning import bi_tuning
from kdjax.methods.finetuning._co_tuning import co_tuning
from kdjax.methods.finetuning._delta import delta
from kdjax.methods.finetuning._l2_sp import l2_sp
from kdjax.methods.finetuning._lwf import lwf
from kdjax.methods.finetuning._prototypical import prototypical
from kdjax.methods.generalization._andmask import (
  andmask_gradients,
  sandmask_gradients,
)
from kdjax.methods.generalization._crossgrad import (
  crossgrad,
  crossgrad_batch,
)
from kdjax.methods.generalization._dael import dael_dg
from kdjax.methods.generalization._ddaig import ddaig, ddaig_batch
from kdjax.methods.generalization._difex import difex, difex_batch
from kdjax.methods.generalization._fish import fish_gradients
from kdjax.methods.generalization._fishr import fishr
from kdjax.methods.generalization._group_dro import group_dro
from kdjax.methods.generalization._irm import irm
from kdjax.methods.generalization._mixup import (
  domainmix_batch,
  mixed,
  mixup_batch,
)
from kdjax.methods.generalization._mldg import mldg_gradients
from kdjax.methods.generalization._rsc import rsc
from kdjax.methods.generalization._sagnet import sagnet
from kdjax.methods.generalization._vrex import vrex
from kdjax.methods.language._dskd import dskd, dskd_cma
from kdjax.methods.language._intermediate_matches import (
  intermediate_matches,
  textbrewer,
)
from kdjax.methods.language._token_losses import minillm
from kdjax.methods.language._transformers import tinybert_layers

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
