"""Domain adaptation: how far apart two domains are, and how to close the gap.

Every function compares a `source` with a `target` sample, whose sizes may
differ, and is pure: arrays in, arrays out.
"""

from kdjax.adaptation._adversarial import dann_loss
from kdjax.adaptation._coral import coral_loss
from kdjax.adaptation._h_divergence import HDivergence
from kdjax.adaptation._h_divergence import h_divergence
from kdjax.adaptation._joint_adaptation import h_divergence_from_errors
from kdjax.adaptation._joint_adaptation import jda_loss
from kdjax.adaptation._joint_adaptation import soft_h_divergence
from kdjax.adaptation._mmd import mmd

__all__ = (
  "HDivergence",
  "coral_loss",
  "dann_loss",
  "h_divergence",
  "h_divergence_from_errors",
  "jda_loss",
  "mmd",
  "soft_h_divergence",
)
