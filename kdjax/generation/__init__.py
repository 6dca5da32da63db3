"""Generation: diffusion models, and their distillation to fewer steps.

Noise schedules, steps of sampling, and the targets and losses of progressive
distillation and of consistency distillation. Every function is pure: arrays and
networks as functions in, arrays out.
"""

from kdjax.generation._consistency import (
  consistency_loss,
  consistency_output,
  consistency_sample,
  consistency_target,
  karras_noise_levels,
)
from kdjax.generation._diffusion import (
  cosine_log_snr,
  ddim_sample,
  ddim_step,
  denoised,
  diffuse,
  diffusion_loss,
)
from kdjax.generation._progressive_distillation import (
  progressive_distillation_target,
)

__all__ = (
  "consistency_loss",
  "consistency_output",
  "consistency_sample",
  "consistency_target",
  "cosine_log_snr",
  "ddim_sample",
  "ddim_step",
  "denoised",
  "diffuse",
  "diffusion_loss",
  "karras_noise_levels",
  "progressive_distillation_target",
)
