"""Continual learning: from a network's past into its present.

Losses that keep what earlier tasks taught, buffers of their examples, and the
metrics of a sequence of tasks. Every function is pure: arrays in, arrays out.
Heads have a fixed number of classes, and masks say which classes are past.
"""

from kdjax.continual._bic import bic_logits
from kdjax.continual._dark_experience import der_loss, fdr_loss
from kdjax.continual._icarl import herding, icarl_loss
from kdjax.continual._lucir import lucir_loss, lucir_margin_loss
from kdjax.continual._lwf import lwf_loss
from kdjax.continual._metrics import ContinualMetrics, continual_metrics
from kdjax.continual._parameter_importance import (
  SynapticIntelligence,
  ewc_fisher,
  ewc_penalty,
  si_consolidate,
  si_init,
  si_penalty,
  si_update,
)
from kdjax.continual._pod import pod_loss
from kdjax.continual._reservoir import (
  Reservoir,
  reservoir_init,
  reservoir_sample,
  reservoir_update,
)

__all__ = (
  "ContinualMetrics",
  "Reservoir",
  "SynapticIntelligence",
  "bic_logits",
  "continual_metrics",
  "der_loss",
  "ewc_fisher",
  "ewc_penalty",
  "fdr_loss",
  "herding",
  "icarl_loss",
  "lucir_loss",
  "lucir_margin_loss",
  "lwf_loss",
  "pod_loss",
  "reservoir_init",
  "reservoir_sample",
  "reservoir_update",
  "si_consolidate",
  "si_init",
  "si_penalty",
  "si_update",
)
