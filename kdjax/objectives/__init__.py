"""Objectives: methods with parameters or state, as (init, apply) pairs.

A loss becomes an objective by :func:`stateless`, several become one by
:func:`combine`. Hyper-parameters live in the objective's state, as arrays:
changing one does not recompile, and a sweep is a vmap over states.
"""

from kdjax.objectives._adversarial import adda
from kdjax.objectives._adversarial import cdan
from kdjax.objectives._adversarial import dann
from kdjax.objectives._adversarial import jda
from kdjax.objectives._adversarial import mcd
from kdjax.objectives._adversarial import mdd
from kdjax.objectives._contrastive import crd
from kdjax.objectives._curriculum import ctkd
from kdjax.objectives._factors import factor_transfer
from kdjax.objectives._factors import factor_transfer_pretraining
from kdjax.objectives._fine_tuning import bi_tuning
from kdjax.objectives._fine_tuning import co_tuning
from kdjax.objectives._fine_tuning import lwf
from kdjax.objectives._generators import mgd
from kdjax.objectives._generators import vitkd
from kdjax.objectives._heads import cat
from kdjax.objectives._heads import simkd
from kdjax.objectives._heads import srrl
from kdjax.objectives._layer_attention import afd
from kdjax.objectives._layer_attention import semckd
from kdjax.objectives._logits import uskd
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._one_for_all import ofa
from kdjax.objectives._presets import PRESETS
from kdjax.objectives._presets import Preset
from kdjax.objectives._presets import preset
from kdjax.objectives._projectors import ickd
from kdjax.objectives._projectors import ktaad
from kdjax.objectives._projectors import srd
from kdjax.objectives._projectors import vkd
from kdjax.objectives._regions import sdd
from kdjax.objectives._regressors import ab
from kdjax.objectives._regressors import fitnet
from kdjax.objectives._regressors import ofd
from kdjax.objectives._relations import cc
from kdjax.objectives._relations import crd_in_batch
from kdjax.objectives._relations import irg
from kdjax.objectives._relations import itrd
from kdjax.objectives._review import review_kd
from kdjax.objectives._select import select_embeddings
from kdjax.objectives._select import select_features
from kdjax.objectives._select import select_logits
from kdjax.objectives._select import select_logits_and_labels
from kdjax.objectives._select import select_supervised
from kdjax.objectives._stage_maps import at
from kdjax.objectives._stage_maps import fsp
from kdjax.objectives._stage_maps import kdsvd
from kdjax.objectives._stage_maps import nst
from kdjax.objectives._transport import wkd_feature
from kdjax.objectives._transport import wkd_logit
from kdjax.objectives._unlabelled import cdac
from kdjax.objectives._unlabelled import dst
from kdjax.objectives._unlabelled import flexmatch
from kdjax.objectives._unlabelled import mme
from kdjax.objectives._unlabelled import on_target
from kdjax.objectives._variances import l2
from kdjax.objectives._variances import pad_l2
from kdjax.objectives._variances import vid
from kdjax.objectives._views import crld
from kdjax.objectives._views import cskd
from kdjax.objectives._views import mlld
from kdjax.objectives._views import sskd

__all__ = (
  "PRESETS",
  "Objective",
  "Preset",
  "ab",
  "adda",
  "afd",
  "at",
  "bi_tuning",
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
  "on_target",
  "pad_l2",
  "preset",
  "review_kd",
  "sdd",
  "select_embeddings",
  "select_features",
  "select_logits",
  "select_logits_and_labels",
  "select_supervised",
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
