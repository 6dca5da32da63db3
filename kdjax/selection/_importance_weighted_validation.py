"""Importance-weighted validation, and with less variance: DEV."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import masked_mean
from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def importance_weighted_score(
  source_losses: Float[Array, " batch"],
  weights: Float[Array, " batch"],
  *,
  normalize: bool = False,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Importance-weighted validation (IWV): the target's risk, from the source.

  .. math:: s = -\frac1n \sum_i w_i \ell_i, \qquad w = p_T(x) / p_S(x)

  unbiased under covariate shift. With weights of 1 it is the plain validation
  on the source, which is often as good as any.

  Args:
    source_losses: `[batch]`, of held-out source examples: 0-1 errors or
      cross-entropies.
    weights: `[batch]`, w >= 0, from `ulsif_weights`,
      `kliep_weights`, `kmm_weights` or
      `discriminator_weights`.
    normalize: whether to divide by the sum of the weights instead of n
      (skada): biased, less noisy, and equal for weights of mean 1.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, minus the estimated risk: higher is better; 0 if all examples are
    masked.

  Raises:
    ValueError: if the lengths differ.

  Examples:
    >>> losses, weights = jnp.array([1.0, 0.0]), jnp.array([0.5, 1.5])
    >>> importance_weighted_score(losses, weights)
    Array(-0.25, dtype=float32)

  References:
    Sugiyama, Krauledat and Müller, `Covariate shift adaptation by importance
    weighted cross validation
    <https://jmlr.org/papers/v8/sugiyama07a.html>`_, 2007.
  """
  products, weights, _ = _weighted(source_losses, weights, where)
  risk = masked_mean(products, where, axis_name=axis_name)
  if not normalize:
    return -risk
  mean = masked_mean(weights, where, axis_name=axis_name)
  return -risk / jnp.where(mean > 0, mean, 1.0)


@validate
def dev_score(
  source_losses: Float[Array, " batch"],
  weights: Float[Array, " batch"],
  *,
  max_weight: ArrayLike = float("inf"),
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Deep embedded validation (DEV): IWV with a control variate.

  .. math::
    s = -\bigl(\overline{w\ell} + \eta (\bar w - 1)\bigr), \qquad
    \eta = -\frac{\operatorname{cov}(w\ell, w)}{\operatorname{var}(w)}

  The mean of the weights is known to be 1; what it misses tells what the risk
  misses.

  Args:
    source_losses: `[batch]`, of held-out source examples.
    weights: `[batch]`, w = p_T / p_S of the same examples, from a classifier
      of domains on the model's FEATURES that has not seen them:
      (p(target | f) / p(source | f)) (n_source / n_target). Not divided by
      their mean, which would take the correction away: see `normalize` of
      `discriminator_weights` and `ulsif_weights`.
    max_weight: weights above it count as it. May be traced. As published,
      none: one weight that explodes then decides the score.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, minus the estimated risk: higher is better. Even with losses >= 0
    the risk may come out negative. 0 if all examples are masked.

  Raises:
    ValueError: if the lengths differ or a static `max_weight` is not above 0.

  Where the weights do not vary eta is 0 (skada), not 0 / 0 (the authors,
  pytorch-adapt).

  Examples:
    >>> losses, weights = jnp.array([1.0, 0.0]), jnp.array([0.5, 1.0])
    >>> dev_score(losses, weights)
    Array(-0., dtype=float32)
    >>> dev_score(losses, jnp.ones(2))
    Array(-0.5, dtype=float32)

  References:
    You et al., `Towards accurate model selection in deep unsupervised domain
    adaptation <https://proceedings.mlr.press/v97/you19a.html>`_, 2019.
  """
  if not (isinstance(max_weight, float) and max_weight == float("inf")):
    check_positive("max_weight", max_weight)
  most = as_number("max_weight", max_weight, weights.dtype)
  weights = jnp.minimum(weights, most)
  products, weights, mask = _weighted(source_losses, weights, where)
  mean_product = masked_mean(products, where, axis_name=axis_name)
  mean = masked_mean(weights, where, axis_name=axis_name)
  spread = mask * (weights - mean)
  covariance, variance, scale, count = sum_over_devices(
    (
      jnp.sum(spread * (products - mean_product)),
      jnp.sum(spread * spread),
      jnp.sum(weights * weights),
      jnp.sum(mask),
    ),
    axis_name,
  )
  # Differences that rounding alone explains are none.
  noise = 4 * jnp.finfo(weights.dtype).eps
  varies = variance > noise * noise * scale
  eta = -jnp.where(varies, covariance / jnp.where(varies, variance, 1.0), 0.0)
  score = -(mean_product + eta * (mean - 1))
  return jnp.where(count > 0, score, 0.0)


def _weighted(
  losses: Float[Array, " batch"],
  weights: Float[Array, " batch"],
  where: Bool[Array, " batch"] | None,
) -> tuple[Array, Array, Array]:
  """Returns weight times loss, weights and mask; no weight silences inf."""
  losses, mask = masked_rows(losses, where)
  weights, _ = masked_rows(weights, where)
  dtype = jnp.promote_types(losses.dtype, weights.dtype)
  losses, weights = losses.astype(dtype), weights.astype(dtype)
  products = weights * jnp.where(weights != 0, losses, 0.0)
  return products, weights, mask.astype(dtype)
