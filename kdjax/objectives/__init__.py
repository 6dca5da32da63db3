"""Objectives: methods with parameters or state, as (init, apply) pairs.

A loss becomes an objective by :func:`stateless`, several become one by
:func:`combine`. Hyper-parameters live in the objective's state, as arrays:
changing one does not recompile, and a sweep is a vmap over states.
"""

from kdjax.objectives._contrastive import crd
from kdjax.objectives._factors import factor_transfer
from kdjax.objectives._factors import factor_transfer_pretraining
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._presets import PRESETS
from kdjax.objectives._presets import Preset
from kdjax.objectives._presets import preset
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

__all__ = (
  "PRESETS",
  "Objective",
  "Preset",
  "ab",
  "at",
  "cc",
  "combine",
  "crd",
  "crd_in_batch",
  "factor_transfer",
  "factor_transfer_pretraining",
  "fitnet",
  "fsp",
  "irg",
  "itrd",
  "kdsvd",
  "modular",
  "nst",
  "ofd",
  "preset",
  "review_kd",
  "select_embeddings",
  "select_features",
  "select_logits",
  "select_logits_and_labels",
  "select_supervised",
  "stateless",
)
