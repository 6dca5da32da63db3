"""Fine-tuning: from a pretrained network to a task.

Penalties, losses and normalizations that use the knowledge of the pretrained
network. Every function is pure: arrays in, arrays out.
"""

from kdjax.finetuning._bi_tuning import (
  KeyQueue,
  categorical_contrastive_loss,
  contrastive_cross_entropy_loss,
  homogeneous_directions,
  key_queue_init,
  key_queue_update,
)
from kdjax.finetuning._bss import bss_loss
from kdjax.finetuning._co_tuning import co_tuning_loss, co_tuning_targets
from kdjax.finetuning._delta import delta_channel_attention, delta_loss
from kdjax.finetuning._l2_sp import l2_sp
from kdjax.finetuning._prototypical_networks import (
  class_prototypes,
  prototypical_logits,
  prototypical_loss,
)
from kdjax.finetuning._stochnorm import StochNorm, stochnorm

__all__ = (
  "KeyQueue",
  "StochNorm",
  "bss_loss",
  "categorical_contrastive_loss",
  "class_prototypes",
  "co_tuning_loss",
  "co_tuning_targets",
  "contrastive_cross_entropy_loss",
  "delta_channel_attention",
  "delta_loss",
  "homogeneous_directions",
  "key_queue_init",
  "key_queue_update",
  "l2_sp",
  "prototypical_logits",
  "prototypical_loss",
  "stochnorm",
)
