"""Cross-domain adaptive clustering (CDAC)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_integer
from kdjax.ops import gathered_rows
from kdjax.ops import softened_softmax
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def cdac_loss(
  features: Float[Array, "batch dims"],
  logits: Float[Array, "batch classes"],
  strong_logits: Float[Array, "batch classes"],
  *,
  top: int = 5,
  eps: ArrayLike = 1e-7,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Adversarial adaptive clustering (CDAC): like features, like predictions.

  .. math::
    \ell = \operatorname*{mean}_{ij} \bigl[s_{ij} \log(P_{ij} + \epsilon)
      + (1 - s_{ij}) \log(1 - P_{ij} + \epsilon)\bigr], \qquad
    P_{ij} = p_i \cdot p'_j

  where s is 1 if the same k features are the largest in both examples. The
  classifier minimizes it (it pulls clusters apart) and the features, through a
  gradient reversal before the classifier, maximize it: pass logits of
  `prototype_logits(reverse_gradient(features), prototypes)`.

  Args:
    features: `[batch, dims]`, which only say who is alike: no gradient.
    logits: `[batch, classes]`, of the target examples, behind a reversal.
    strong_logits: `[batch, classes]`, of their strongly augmented views,
      behind a reversal.
    top: k; a static integer.
    eps: epsilon > 0. May be traced.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar <= 0, minus the binary cross-entropy; 0 with gradient 0 if nothing
    counts. Published weight: 1, beside `fixmatch_loss` of a second
    strong view and 30 times the mean squared difference of both strong views'
    probabilities with a `sigmoid_ramp_up` of 1,000 steps (Dassl's; 20,000
    in the authors' script).

  Raises:
    ValueError: if shapes disagree or `top` is no width of the features.
    TypeError: if `top` is no integer.

  Examples:
    >>> features, sure = jnp.eye(2), 1e4 * jnp.eye(2)
    >>> print(f"{abs(cdac_loss(features, sure, sure, top=1)):.3f}")
    0.000
    >>> print(f"{cdac_loss(features, sure, sure[::-1], top=1):.3f}")
    -16.118

  References:
    Li et al., `Cross-domain adaptive clustering for semi-supervised domain
    adaptation <https://arxiv.org/abs/2104.09415>`_, 2021.
  """
  check_integer("top", top, 1)
  if top > features.shape[-1]:
    raise ValueError(
      f"top is {top}; expected at most {features.shape[-1]}, the features' "
      "width."
    )
  own, mask = gathered_rows(jax.lax.stop_gradient(features), where, None)
  chosen = jnp.sort(jax.lax.top_k(own, top)[1], -1)
  rows, _ = gathered_rows(logits, where, None)
  p = softened_softmax(rows)
  others, counted = gathered_rows(strong_logits, where, axis_name)
  q = softened_softmax(others)
  theirs, _ = gathered_rows(chosen.astype(mask.dtype), None, axis_name)
  theirs = theirs.astype(chosen.dtype)
  # The same set of k: as many of one's own are among theirs.
  dims = features.shape[-1]
  mine = jnp.sum(jax.nn.one_hot(chosen, dims, dtype=mask.dtype), 1)
  their = jnp.sum(jax.nn.one_hot(theirs, dims, dtype=mask.dtype), 1)
  highest = jax.lax.Precision.HIGHEST
  alike = jnp.matmul(mine, their.T, precision=highest) > top - 0.5
  together = jnp.matmul(p, q.T, precision=highest)
  # 1 - P without cancellation where both are sure of one class.
  apart = jnp.matmul(p, 1 - q.T, precision=highest)
  small = as_number("eps", eps, p.dtype)
  terms = jnp.log(jnp.where(alike, together, apart) + small)
  pairs = mask[:, None] * counted[None]
  sums, count = sum_over_devices(
    (jnp.sum(pairs * terms), jnp.sum(pairs)), axis_name
  )
  return sums / jnp.maximum(count, 1)
