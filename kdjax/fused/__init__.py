"""Fused divergences for large vocabularies, with little memory.

The losses are computed from hidden states and heads without `[tokens,
vocabulary]` logits in memory, from cached or sampled classes of a teacher, and
with classes sharded over devices.
"""

from kdjax.fused._divergences import Divergence
from kdjax.fused._fused_divergence import fused_divergence
from kdjax.fused._fused_linear_divergence import fused_linear_divergence
from kdjax.fused._linear_cross_entropy import (
  linear_cross_entropy,
  linear_distillation,
)
from kdjax.fused._linear_head import Head
from kdjax.fused._sparse_divergence import (
  sparse_divergence,
  sparse_linear_divergence,
)
from kdjax.fused._teacher_sampling import (
  SampledTeacher,
  known_log_probs,
  sample_teacher,
)

__all__ = (
  "Divergence",
  "Head",
  "SampledTeacher",
  "fused_divergence",
  "fused_linear_divergence",
  "known_log_probs",
  "linear_cross_entropy",
  "linear_distillation",
  "sample_teacher",
  "sparse_divergence",
  "sparse_linear_divergence",
)
