"""Cross-modal transfer: between images, texts, sounds and views of an example.

Losses of paired batches: row i of every array is the same example in another
modality. Every function is pure: arrays in, arrays out.
"""

from kdjax.cross_modal._contrastive import (
  affinity_mimicking_loss,
  clip_feature_loss,
  clip_gradient_loss,
  clip_interactive_loss,
  clip_loss,
  clip_relation_loss,
)
from kdjax.cross_modal._joint import cross_modal_joint_loss
from kdjax.cross_modal._privileged import generalized_distillation_loss

__all__ = (
  "affinity_mimicking_loss",
  "clip_feature_loss",
  "clip_gradient_loss",
  "clip_interactive_loss",
  "clip_loss",
  "clip_relation_loss",
  "cross_modal_joint_loss",
  "generalized_distillation_loss",
)
