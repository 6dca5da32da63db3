"""MixStyle, and exact feature distributions: EFDMix."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.generalization._mixing_partners import expand
from kdjax.generalization._style_statistics import drawn_partners
from kdjax.generalization._style_statistics import style_moments
from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import validate


@validate
def mixstyle(
  features: Float[Array, "batch height width channels"],
  key: Any | None = None,
  *,
  alpha: ArrayLike = 0.1,
  probability: ArrayLike = 0.5,
  mix: str = "random",
  domains: Int[Array, " batch"] | None = None,
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  eps: ArrayLike = 1e-6,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"]:
  r"""MixStyle: the mean and deviation of channels, mixed between examples.

  .. math::
    y_i = \frac{x_i - \mu_i}{\sigma_i}
      \bigl(\lambda_i \sigma_i + (1 - \lambda_i) \sigma_{\pi(i)}\bigr)
      + \lambda_i \mu_i + (1 - \lambda_i) \mu_{\pi(i)}

  with mean and standard deviation over the positions of an example's channel,
  \sigma^2 the variance over n - 1, plus eps. The statistics have no gradient.

  Args:
    features: `[batch, height, width, channels]`, after an early stage; in
      training only.
    key: draws partners and weights; may be absent if both are given.
    alpha: weights are drawn from Beta(alpha, alpha). May be traced.
    probability: that the batch is mixed at all; in a batch that is not, all
      weights are 1. May be traced.
    mix: "random" permutes the batch; "crossdomain" takes the partner from
      another domain.
    domains: `[batch]`, each example's domain, for "crossdomain"; None makes
      one of each half of the batch, as published.
    partners: `[batch]`, the indices \pi(i) instead of drawn ones.
    weights: `[batch]`, \lambda instead of drawn ones; the probability then
      plays no part.
    eps: added to the variance, above 0.
    where: `[batch]`, which examples count; no other becomes a partner.

  Returns:
    Mixed features, of the features' shape and dtype. Published: alpha 0.1,
    after the first two or three stages of a ResNet.

  Raises:
    ValueError: if there is something to draw and no key, `mix` is unknown, or
      a static hyper-parameter is out of range.

  As Dassl ("random" is its default) and TLlib ("crossdomain" alone). A single
  position has no variance (NaN there, 0 here).

  Examples:
    >>> maps = jnp.array([[0.0, 2.0], [10.0, 30.0]]).reshape(2, 2, 1, 1)
    >>> mixed = mixstyle(
    ...   maps, partners=jnp.array([1, 0]), weights=jnp.array([0.0, 1.0])
    ... )
    >>> print(mixed.reshape(2, 2).round().astype(int))
    [[10 30]
     [10 30]]

  References:
    Zhou et al., `Domain generalization with MixStyle
    <https://arxiv.org/abs/2104.02008>`_, 2021.
  """
  check_positive("eps", eps)
  partners, weights = drawn_partners(
    "mixstyle",
    features,
    key,
    alpha,
    probability,
    mix,
    domains,
    where,
    partners,
    weights,
  )
  x = features.astype(compute_dtype(features))
  mean, variance = style_moments(jax.lax.stop_gradient(x), (1, 2))
  deviation = jnp.sqrt(variance + as_number("eps", eps, x.dtype))
  rest = expand(1 - weights, x)
  # In this form a weight of 1 changes no digit.
  stretch = rest * (deviation[partners] - deviation) / deviation
  mixed = x + (x - mean) * stretch + rest * (mean[partners] - mean)
  return mixed.astype(features.dtype)


@validate
def efdmix(
  features: Float[Array, "batch height width channels"],
  key: Any | None = None,
  *,
  alpha: ArrayLike = 0.1,
  probability: ArrayLike = 0.5,
  mix: str = "random",
  domains: Int[Array, " batch"] | None = None,
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"]:
  r"""Exact feature distribution mixing (EFDMix): sorted values, mixed by rank.

  .. math::
    y_{ij} = x_{ij} + (1 - \lambda_i)
      \bigl(x_{\pi(i), (r_{ij})} - \operatorname{sg}[x_{ij}]\bigr)

  where r is the rank of a position among those of its channel and (r) the
  partner's value of that rank: the partner's whole distribution at the own
  arrangement, not only its mean and deviation.

  Args:
    features: `[batch, height, width, channels]`, after an early stage; in
      training only.
    key: draws partners and weights; may be absent if both are given.
    alpha: weights are drawn from Beta(alpha, alpha). May be traced.
    probability: that the batch is mixed at all. May be traced.
    mix: "random" or "crossdomain", as in `mixstyle`.
    domains: `[batch]`, each example's domain, for "crossdomain".
    partners: `[batch]`, the indices \pi(i) instead of drawn ones.
    weights: `[batch]`, \lambda instead of drawn ones.
    where: `[batch]`, which examples count; no other becomes a partner.

  Returns:
    Mixed features, of the features' shape and dtype. The own values have
    gradient 1, whatever the weight, and the partner's 1 - \lambda, as in the
    authors' code. Published: alpha 0.1.

  Raises:
    ValueError: if there is something to draw and no key, or `mix` is unknown.

  Equal values are ranked by position.

  Examples:
    >>> maps = jnp.array([[3.0, 1.0], [10.0, 20.0]]).reshape(2, 2, 1, 1)
    >>> mixed = efdmix(
    ...   maps, partners=jnp.array([1, 0]), weights=jnp.array([0.0, 1.0])
    ... )
    >>> print(mixed.reshape(2, 2))
    [[20. 10.]
     [10. 20.]]

  References:
    Zhang et al., `Exact feature distribution matching for arbitrary style
    transfer and domain generalization <https://arxiv.org/abs/2203.07740>`_,
    2022.
  """
  partners, weights = drawn_partners(
    "efdmix",
    features,
    key,
    alpha,
    probability,
    mix,
    domains,
    where,
    partners,
    weights,
  )
  batch, height, width, channels = features.shape
  x = features.astype(compute_dtype(features))
  x = x.reshape(batch, height * width, channels)
  ranks = jnp.argsort(jnp.argsort(jax.lax.stop_gradient(x), 1), 1)
  matched = jnp.take_along_axis(jnp.sort(x, 1)[partners], ranks, 1)
  mixed = x + expand(1 - weights, x) * (matched - jax.lax.stop_gradient(x))
  return mixed.reshape(features.shape).astype(features.dtype)
