"""Domain generalization: many source domains, one that was never seen.

Domains are a leading axis, padded and masked where their batches differ in
size. Every function is pure: of arrays, or of a loss and its parameters where
a gradient is needed.
"""

from kdjax.generalization._agreement import andmask
from kdjax.generalization._agreement import domain_gradients
from kdjax.generalization._agreement import sandmask
from kdjax.generalization._alignment import coral
from kdjax.generalization._alignment import mmd
from kdjax.generalization._difex import Difex
from kdjax.generalization._difex import difex_loss
from kdjax.generalization._difex import fourier_phase
from kdjax.generalization._experts import dael_consistency_loss
from kdjax.generalization._experts import dael_expert_loss
from kdjax.generalization._gradient_variances import Fishr
from kdjax.generalization._gradient_variances import FishrState
from kdjax.generalization._gradient_variances import fishr_penalty
from kdjax.generalization._meta import Fish
from kdjax.generalization._meta import fish
from kdjax.generalization._meta import mldg
from kdjax.generalization._mixup import Mixed
from kdjax.generalization._mixup import domainmix
from kdjax.generalization._mixup import mixed_loss
from kdjax.generalization._mixup import mixup
from kdjax.generalization._muting import rsc_mask
from kdjax.generalization._penalties import domain_losses
from kdjax.generalization._penalties import irm_penalty
from kdjax.generalization._penalties import sd_penalty
from kdjax.generalization._penalties import vrex_penalty
from kdjax.generalization._perturbations import augmented_loss
from kdjax.generalization._perturbations import crossgrad
from kdjax.generalization._perturbations import ddaig
from kdjax.generalization._perturbations import ddaig_generator_loss
from kdjax.generalization._selection import Selection
from kdjax.generalization._selection import leave_one_domain_out_selection
from kdjax.generalization._selection import oracle_selection
from kdjax.generalization._selection import training_domain_selection
from kdjax.generalization._styles import efdmix
from kdjax.generalization._styles import mixstyle
from kdjax.generalization._styles import sagnet_adversarial_loss
from kdjax.generalization._styles import sagnet_randomize
from kdjax.generalization._worst_domains import GroupDRO
from kdjax.generalization._worst_domains import group_dro

__all__ = (
  "Difex",
  "Fish",
  "Fishr",
  "FishrState",
  "GroupDRO",
  "Mixed",
  "Selection",
  "andmask",
  "augmented_loss",
  "coral",
  "crossgrad",
  "dael_consistency_loss",
  "dael_expert_loss",
  "ddaig",
  "ddaig_generator_loss",
  "difex_loss",
  "domain_gradients",
  "domain_losses",
  "domainmix",
  "efdmix",
  "fish",
  "fishr_penalty",
  "fourier_phase",
  "group_dro",
  "irm_penalty",
  "leave_one_domain_out_selection",
  "mixed_loss",
  "mixstyle",
  "mixup",
  "mldg",
  "mmd",
  "oracle_selection",
  "rsc_mask",
  "sagnet_adversarial_loss",
  "sagnet_randomize",
  "sandmask",
  "sd_penalty",
  "training_domain_selection",
  "vrex_penalty",
)
