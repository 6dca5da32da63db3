"""Collaborative and progressive learning: peers, branches, chains, teams.

Losses of networks that learn from each other at the same time, from chains of
assistants, and from teachers of other classes. Every function is pure: arrays
in, arrays out.
"""

from kdjax.collaboration._amalgamation import amalgamation_loss
from kdjax.collaboration._assistant_chains import (
  best_assistants,
  evenly_spaced_assistants,
)
from kdjax.collaboration._assistants import annealing_loss, dense_guidance_loss
from kdjax.collaboration._branches import (
  consistency_ramp,
  okddip_attention,
  okddip_loss,
  one_logits,
  one_loss,
)
from kdjax.collaboration._kdcl import kdcl_general_weights, kdcl_targets
from kdjax.collaboration._mutual_learning import (
  codistillation_loss,
  mutual_loss,
)
from kdjax.collaboration._refilled import (
  refilled_class_loss,
  refilled_relation_loss,
)
from kdjax.collaboration._route import route_anchor
from kdjax.collaboration._sandwich import sandwich_loss

__all__ = (
  "amalgamation_loss",
  "annealing_loss",
  "best_assistants",
  "codistillation_loss",
  "consistency_ramp",
  "dense_guidance_loss",
  "evenly_spaced_assistants",
  "kdcl_general_weights",
  "kdcl_targets",
  "mutual_loss",
  "okddip_attention",
  "okddip_loss",
  "one_logits",
  "one_loss",
  "refilled_class_loss",
  "refilled_relation_loss",
  "route_anchor",
  "sandwich_loss",
)
