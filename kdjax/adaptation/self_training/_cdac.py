"""Cross-domain adaptive clustering (CDAC)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def cdac_loss(
  target_features: Float[Array, "batch dims"],
  target_logits: Float[Array, "batch classes"],
  strong_logits: Float[Array, "batch classes"],
  *,
  num_largest: int = 5,
  epsilon: ArrayLike = 1e-7,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Adversarial adaptive clustering (CDAC): equal predictions within clusters.

  .. math::
    \ell = \operatorname*{mean}_{ij} \bigl[s_{ij} \log(P_{ij} + \epsilon)
      + (1 - s_{ij}) \log(1 - P_{ij} + \epsilon)\bigr], \qquad
    P_{ij} = p_i \cdot p'_j

  where s is 1 if the same k features are the largest in both examples, else 0.
  The classifier minimizes the loss, which separates clusters. The features
  maximize it, through a gradient reversal before the classifier: pass the
  logits of `prototype_logits(reverse_gradient(features), prototypes)`.

  Args:
    target_features: `[batch, dims]`, which only give s; no gradient.
    target_logits: `[batch, classes]`, of the target examples, after a gradient
      reversal.
    strong_logits: `[batch, classes]`, of their strongly augmented views,
      after a gradient reversal.
    num_largest: k, the number of largest features; a static integer.
    epsilon: > 0. May be traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar <= 0, minus the binary cross-entropy; 0 with gradient 0 if all
    examples are masked. Published weight: 1, added to `fixmatch_loss` of a
    second strong view and 30 times the mean squared difference between the
    probabilities of both strong views, with a `sigmoid_ramp_up` of 1,000 steps
    (Dassl's; 20,000 in the authors' script).

  Raises:
    ValueError: if shapes differ or `num_largest` is larger than the width
      of the features.
    TypeError: if `num_largest` is not an integer.

  Examples:
    >>> features, sure = jnp.eye(2), 1e4 * jnp.eye(2)
    >>> print(f"{abs(cdac_loss(features, sure, sure, num_largest=1)):.3f}")
    0.000
    >>> print(f"{cdac_loss(features, sure, sure[::-1], num_largest=1):.3f}")
    -16.118

  References:
    Li et al., `Cross-domain adaptive clustering for semi-supervised domain
    adaptation <https://arxiv.org/abs/2104.09415>`_, 2021.
  """
  ops.check_integer("num_largest", num_largest, 1)
  if num_largest > target_features.shape[-1]:
    raise ValueError(
      f"num_largest is {num_largest}; expected at most "
      f"{target_features.shape[-1]}, the width of target_features."
    )
  own, mask = ops.gathered_rows(
    jax.lax.stop_gradient(target_features), where, None
  )
  chosen = jnp.sort(jax.lax.top_k(own, num_largest)[1], -1)
  rows, _ = ops.gathered_rows(target_logits, where, None)
  p = ops.softened_softmax(rows)
  others, counted = ops.gathered_rows(strong_logits, where, axis_name)
  q = ops.softened_softmax(others)
  other_chosen, _ = ops.gathered_rows(
    chosen.astype(mask.dtype), None, axis_name
  )
  other_chosen = other_chosen.astype(chosen.dtype)
  # Two examples have the same k features if their indicators share k ones.
  dims = target_features.shape[-1]
  own_largest = jnp.sum(jax.nn.one_hot(chosen, dims, dtype=mask.dtype), 1)
  other_largest = jnp.sum(
    jax.nn.one_hot(other_chosen, dims, dtype=mask.dtype), 1
  )
  highest = jax.lax.Precision.HIGHEST
  alike = (
    jnp.matmul(own_largest, other_largest.T, precision=highest)
    > num_largest - 0.5
  )
  together = jnp.matmul(p, q.T, precision=highest)
  # 1 - P without cancellation where P is near 1.
  apart = jnp.matmul(p, 1 - q.T, precision=highest)
  ops.check_range("epsilon", epsilon, 0.0, math.inf)
  small = ops.as_number("epsilon", epsilon, p.dtype)
  terms = jnp.log(jnp.where(alike, together, apart) + small)
  pairs = mask[:, None] * counted[None]
  sums, count = ops.sum_over_devices(
    (ops.keep_nan(jnp.sum(pairs * terms), own), jnp.sum(pairs)), axis_name
  )
  return sums / jnp.maximum(count, 1)
