"""Domain generalization: from several source domains to an unseen domain.

The leading axis of an array holds the domains; batches of different sizes are
padded and masked. Every function is pure. It takes arrays, or a loss function
and its parameters where it needs a gradient.
"""

from kdjax.generalization._coral import coral
from kdjax.generalization._crossgrad import augmented_loss, crossgrad
from kdjax.generalization._dael import dael_consistency_loss, dael_expert_loss
from kdjax.generalization._ddaig import ddaig, ddaig_generator_loss
from kdjax.generalization._difex import Difex, difex_loss, fourier_phase
from kdjax.generalization._domain_losses import domain_losses
from kdjax.generalization._fish import Fish, fish
from kdjax.generalization._fishr import (
  Fishr,
  FishrState,
  fishr_init,
  fishr_penalty,
)
from kdjax.generalization._gradient_masks import (
  andmask,
  domain_gradients,
  sandmask,
)
from kdjax.generalization._group_dro import GroupDRO, group_dro
from kdjax.generalization._irm import irm_penalty
from kdjax.generalization._mixstyle import efdmix, mixstyle
from kdjax.generalization._mixup import Mixed, domainmix, mixed_loss, mixup
from kdjax.generalization._mldg import mldg
from kdjax.generalization._mmd import mmd
from kdjax.generalization._rsc import rsc_mask
from kdjax.generalization._sagnet import (
  sagnet_adversarial_loss,
  sagnet_randomize,
)
from kdjax.generalization._spectral_decoupling import sd_penalty
from kdjax.generalization._vrex import vrex_penalty

__all__ = (
  "Difex",
  "Fish",
  "Fishr",
  "FishrState",
  "GroupDRO",
  "Mixed",
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
  "fishr_init",
  "fishr_penalty",
  "fourier_phase",
  "group_dro",
  "irm_penalty",
  "mixed_loss",
  "mixstyle",
  "mixup",
  "mldg",
  "mmd",
  "rsc_mask",
  "sagnet_adversarial_loss",
  "sagnet_randomize",
  "sandmask",
  "sd_penalty",
  "vrex_penalty",
)
