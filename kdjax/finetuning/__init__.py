"""Fine-tuning: from a pretrained network to a task, and from which network.

Penalties and losses that keep what was pretrained, and scores that tell how
well it will transfer. All are pure: arrays in, arrays out.
"""

from kdjax.finetuning._bi_tuning import KeyQueue
from kdjax.finetuning._bi_tuning import categorical_contrastive_loss
from kdjax.finetuning._bi_tuning import contrastive_cross_entropy_loss
from kdjax.finetuning._bi_tuning import enqueue_keys
from kdjax.finetuning._bi_tuning import homogeneous_directions
from kdjax.finetuning._bi_tuning import key_queue
from kdjax.finetuning._bss import bss_loss
from kdjax.finetuning._co_tuning import co_tuning_loss
from kdjax.finetuning._co_tuning import co_tuning_targets
from kdjax.finetuning._delta import delta_channel_attention
from kdjax.finetuning._delta import delta_loss
from kdjax.finetuning._l2_sp import l2_sp
from kdjax.finetuning._prototypical_networks import class_prototypes
from kdjax.finetuning._prototypical_networks import prototypical_logits
from kdjax.finetuning._prototypical_networks import prototypical_loss
from kdjax.finetuning._stochnorm import StochNorm
from kdjax.finetuning._stochnorm import stochnorm

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
  "enqueue_keys",
  "homogeneous_directions",
  "key_queue",
  "l2_sp",
  "prototypical_logits",
  "prototypical_loss",
  "stochnorm",
)
