"""Importance-weighted validation (IWV) and deep embedded validation (DEV)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def importance_weighted_score(
  source_losses: Float[Array, " batch"],
  weights: Float[Array, " batch"],
  *,
  normalize: bool = False,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Importance-weighted validation (IWV): target risk from source losses.

  .. math:: s = -\frac1n \sum_i w_i \ell_i, \qquad w = p_T(x) / p_S(x)

  The estimate is unbiased under covariate shift. With weights of 1 it is plain
  validation on the source, which is often as good as other validators.

  Args:
    source_losses: `[batch]`, of held-out source examples: 0-1 errors or
      cross-entropies.
    weights: `[batch]`, w >= 0, from `ulsif_weights`, `kliep_weights`,
      `kmm_weights` or `discriminator_weights`.
    normalize: whether to divide by the sum of the weights instead of n (skada).
      The result is biased and has less variance; for weights of mean 1 it is
      the same.
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
  risk = ops.masked_mean(products, where, axis_name=axis_name)
  if not normalize:
    return -risk
  mean = ops.masked_mean(weights, where, axis_name=axis_name)
  return -risk / jnp.where(mean > 0, mean, 1.0)


@ops.validate
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

  The expectation of the weights is 1. Their deviation from 1 in the sample
  corrects the correlated error of the risk.

  Args:
    source_losses: `[batch]`, of held-out source examples.
    weights: `[batch]`, w = p_T / p_S of the same examples:
      (p(target | f) / p(source | f)) (n_source / n_target), from a domain
      classifier on the FEATURES f of the model, trained on other examples. Do
      not scale them to mean 1, which would remove the correction: see
      `normalize` of `discriminator_weights` and `ulsif_weights`.
    max_weight: the upper bound to which weights are clipped. May be traced. The
      published code does not clip; a single very large weight then determines
      the score.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, minus the estimated risk: higher is better. The estimated
    risk may be negative, even for losses >= 0. 0 if all examples are masked.

  Raises:
    ValueError: if the lengths differ or a static `max_weight` is not above 0.

  For equal weights eta is 0 (skada), not 0 / 0 (the authors, pytorch-adapt).

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
    ops.check_positive("max_weight", max_weight)
  most = ops.as_number("max_weight", max_weight, weights.dtype)
  weights = ops.at_most(weights, most)
  products, weights, mask = _weighted(source_losses, weights, where)
  mean_product = ops.masked_mean(products, where, axis_name=axis_name)
  mean = ops.masked_mean(weights, where, axis_name=axis_name)
  spread = mask * (weights - mean)
  covariance, variance, scale, count = ops.sum_over_devices(
    (
      jnp.sum(spread * (products - mean_product)),
      jnp.sum(spread * spread),
      jnp.sum(weights * weights),
      jnp.sum(mask),
    ),
    axis_name,
  )
  # Variances below the rounding error are 0.
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
  """Returns weight times loss, weights and mask; weight 0 times inf is 0."""
  losses, mask = ops.masked_rows(losses, where)
  weights, _ = ops.masked_rows(weights, where)
  dtype = jnp.promote_types(losses.dtype, weights.dtype)
  losses, weights = losses.astype(dtype), weights.astype(dtype)
  products = weights * jnp.where(weights != 0, losses, 0.0)
  return products, weights, mask.astype(dtype)
