"""Numerics that every area shares, each in one place.

Arrays in, arrays out; only JAX, NumPy and jaxtyping are imported.
"""

from kdjax.ops._checked import checked
from kdjax.ops._collectives import gather_batch
from kdjax.ops._collectives import masked_mean
from kdjax.ops._distances import pairwise_squared_distances
from kdjax.ops._distances import safe_norm
from kdjax.ops._divergences import kl_divergence
from kdjax.ops._gradients import reverse_gradient
from kdjax.ops._softmax import log_softened_softmax
from kdjax.ops._softmax import softened_softmax

__all__ = (
  "checked",
  "gather_batch",
  "kl_divergence",
  "log_softened_softmax",
  "masked_mean",
  "pairwise_squared_distances",
  "reverse_gradient",
  "safe_norm",
  "softened_softmax",
)
