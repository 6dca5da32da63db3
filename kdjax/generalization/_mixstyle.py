"""MixStyle and exact feature distribution mixing (EFDMix)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.generalization._mixing_partners import (
  add_trailing_axes,
  partners_and_weights,
)


def style_moments(
  features: Array, axes: tuple[int, ...]
) -> tuple[Array, Array]:
  """Returns mean and variance, which divides by n - 1 (0 for one value)."""
  mean = jnp.mean(features, axes, keepdims=True)
  count = features.size // mean.size
  squares = jnp.sum(jnp.square(features - mean), axes, keepdims=True)
  return mean, squares / max(count - 1, 1)


@ops.validate
def mixstyle(
  key: Any | None,
  features: Float[Array, "batch height width channels"],
  *,
  alpha: ArrayLike = 0.1,
  probability: ArrayLike = 0.5,
  mix: str = "random",
  domains: Int[Array, " batch"] | None = None,
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  epsilon: ArrayLike = 1e-6,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"]:
  r"""MixStyle: mixes channel means and standard deviations between examples.

  .. math::
    y_i = \frac{x_i - \mu_i}{\sigma_i}
      \bigl(\lambda_i \sigma_i + (1 - \lambda_i) \sigma_{\pi(i)}\bigr)
      + \lambda_i \mu_i + (1 - \lambda_i) \mu_{\pi(i)}

  with the mean and the standard deviation over the positions of a channel.
  \sigma^2 is the variance, which divides by n - 1, plus epsilon. The statistics
  have no gradient.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    key: draws partners and weights; None if both are given.
    features: `[batch, height, width, channels]`, after an early stage; in
      training only.
    alpha: weights are drawn from Beta(alpha, alpha). May be traced.
    probability: the probability that the batch is mixed; otherwise all weights
      are 1. May be traced.
    mix: "random" permutes the batch; "crossdomain" draws partners from other
      domains.
    domains: `[batch]`, the domain of each example, for "crossdomain"; None
      makes each half of the batch a domain, as published.
    partners: `[batch]`, indices \pi(i) to use instead of drawn ones.
    weights: `[batch]`, \lambda to use instead of drawn ones; `probability` is
      then ignored.
    epsilon: added to the variance, above 0. May be traced.
    where: `[batch]`, True for the examples to use; only they become partners.

  Returns:
    Mixed features of the same shape and dtype. Published: alpha 0.1, after the
    first two or three stages of a ResNet.

  Raises:
    ValueError: if the key is None and partners or weights are not given, `mix`
      is unknown, or a static hyper-parameter is out of range.

  Dassl's default is "random"; TLlib has "crossdomain" only. The variance of a
  single position is 0 here, NaN in both.

  Examples:
    >>> maps = jnp.array([[0.0, 2.0], [10.0, 30.0]]).reshape(2, 2, 1, 1)
    >>> mixed = mixstyle(
    ...   None, maps, partners=jnp.array([1, 0]), weights=jnp.array([0.0, 1.0])
    ... )
    >>> print(mixed.reshape(2, 2).round().astype(int))
    [[10 30]
     [10 30]]

  References:
    Zhou et al., `Domain generalization with MixStyle
    <https://arxiv.org/abs/2104.02008>`_, 2021.
  """
  ops.check_positive("epsilon", epsilon)
  partners, weights = partners_and_weights(
    "mixstyle",
    key,
    features,
    alpha,
    probability,
    mix,
    domains,
    where,
    partners,
    weights,
  )
  x = features.astype(ops.compute_dtype(features))
  mean, variance = style_moments(jax.lax.stop_gradient(x), (1, 2))
  deviation = jnp.sqrt(variance + ops.as_number("epsilon", epsilon, x.dtype))
  rest = add_trailing_axes(1 - weights, x)
  # This form returns x exactly for a weight of 1.
  stretch = rest * (deviation[partners] - deviation) / deviation
  mixed = x + (x - mean) * stretch + rest * (mean[partners] - mean)
  return mixed.astype(features.dtype)


@ops.validate
def efdmix(
  key: Any | None,
  features: Float[Array, "batch height width channels"],
  *,
  alpha: ArrayLike = 0.1,
  probability: ArrayLike = 0.5,
  mix: str = "random",
  domains: Int[Array, " batch"] | None = None,
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"]:
  r"""Exact feature distribution mixing (EFDMix): mixes values of equal rank.

  .. math::
    y_{ij} = x_{ij} + (1 - \lambda_i)
      \bigl(x_{\pi(i), (r_{ij})} - \operatorname{sg}[x_{ij}]\bigr)

  where r is the rank of a value among the positions of its channel, and the
  subscript (r) means the partner's value of rank r. All values of the partner
  are matched, not only their mean and standard deviation as in MixStyle.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    key: draws partners and weights; None if both are given.
    features: `[batch, height, width, channels]`, after an early stage; in
      training only.
    alpha: weights are drawn from Beta(alpha, alpha). May be traced.
    probability: the probability that the batch is mixed. May be traced.
    mix: "random" or "crossdomain", as in `mixstyle`.
    domains: `[batch]`, the domain of each example, for "crossdomain".
    partners: `[batch]`, indices \pi(i) to use instead of drawn ones.
    weights: `[batch]`, \lambda to use instead of drawn ones.
    where: `[batch]`, True for the examples to use; only they become partners.

  Returns:
    Mixed features of the same shape and dtype. As in the authors' code, the
    gradient is 1 for an example's own values and 1 - \lambda for the values of
    its partner. Published: alpha 0.1.

  Raises:
    ValueError: if the key is None and partners or weights are not given, or
      `mix` is unknown.

  Equal values are ranked by position.

  Examples:
    >>> maps = jnp.array([[3.0, 1.0], [10.0, 20.0]]).reshape(2, 2, 1, 1)
    >>> mixed = efdmix(
    ...   None, maps, partners=jnp.array([1, 0]), weights=jnp.array([0.0, 1.0])
    ... )
    >>> print(mixed.reshape(2, 2))
    [[20. 10.]
     [10. 20.]]

  References:
    Zhang et al., `Exact feature distribution matching for arbitrary style
    transfer and domain generalization <https://arxiv.org/abs/2203.07740>`_,
    2022.
  """
  partners, weights = partners_and_weights(
    "efdmix",
    key,
    features,
    alpha,
    probability,
    mix,
    domains,
    where,
    partners,
    weights,
  )
  batch, height, width, channels = features.shape
  x = features.astype(ops.compute_dtype(features))
  x = x.reshape(batch, height * width, channels)
  ranks = jnp.argsort(jnp.argsort(jax.lax.stop_gradient(x), 1), 1)
  matched = jnp.take_along_axis(jnp.sort(x, 1)[partners], ranks, 1)
  mixed = x + add_trailing_axes(1 - weights, x) * (
    matched - jax.lax.stop_gradient(x)
  )
  return mixed.reshape(features.shape).astype(features.dtype)
