"""Confidence of predictions, and cross-entropy with confident pseudo-labels."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


def confident_cross_entropy(
  logits: Float[Array, "*batch classes"],
  pseudo_logits: Float[Array, "*batch classes"],
  threshold: ArrayLike,
) -> Float[Array, "*batch"]:
  """Returns the cross-entropy with confident pseudo-labels, 0 for others."""
  pseudo_logits = jax.lax.stop_gradient(pseudo_logits)
  confident = is_confident(pseudo_logits, threshold)
  losses = ops.cross_entropy(logits, jnp.argmax(pseudo_logits, -1))
  return ops.keep_nan(jnp.where(confident, losses, 0.0), pseudo_logits)


def is_confident(
  logits: Float[Array, "*batch classes"], threshold: ArrayLike
) -> Bool[Array, "*batch"]:
  """Returns whether the largest probability of a row reaches the threshold."""
  confidence = ops.largest(ops.softened_softmax(logits), -1)
  least = ops.as_fraction(
    "threshold", threshold, ops.compute_dtype(logits), shape=confidence.shape
  )
  return confidence >= least
