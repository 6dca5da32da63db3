"""Styles, the statistics of feature maps, exchanged between examples."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.generalization._partners import expand
from kdjax.generalization._partners import sample_beta
from kdjax.generalization._partners import sample_partners
from kdjax.generalization._partners import split_key
from kdjax.ops import log_softened_softmax
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import as_share
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import check_range
from kdjax.ops._validation import validate


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
  partners, weights = _drawn(
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
  mean, variance = _moments(jax.lax.stop_gradient(x), (1, 2))
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
    mix: "random" or "crossdomain", as in :func:`mixstyle`.
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
  partners, weights = _drawn(
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


@validate
def sagnet_randomize(
  features: Float[Array, "batch height width channels"]
  | Float[Array, "batch dims"],
  key: Any | None = None,
  *,
  what: str = "style",
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  eps: ArrayLike = 1e-5,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"] | Float[Array, "batch dims"]:
  r"""Style-agnostic network (SagNet): style or content at random, by AdaIN.

  .. math::
    \text{style:}\quad y_i = \sqrt{v'_i + \epsilon}\, \hat x_i + \mu'_i,
    \qquad (\mu', v')_i = \lambda_i (\mu, v)_i
      + (1 - \lambda_i) (\mu, v)_{\pi(i)}

  .. math::
    \text{content:}\quad y_i = \sqrt{v_i + \epsilon}\,
      \operatorname{sg}[\hat x_{\pi(i)}] + \mu_i, \qquad
    \hat x = (x - \mu) / \sqrt{v + \epsilon}

  with mean and variance (over n - 1) of each channel's positions, or of all
  entries of a vector. A step trains the features and the content network on
  "style", the style network on "content", and then the features alone to make
  the style network undecided (:func:`sagnet_adversarial_loss`).

  Args:
    features: maps `[batch, height, width, channels]` or `[batch, dims]`.
    key: draws partners, a permutation, and weights, uniform in [0, 1]; may be
      absent if they are given ("content" needs no weights).
    what: is randomised, "style" or "content".
    partners: `[batch]`, the indices \pi(i) instead of drawn ones.
    weights: `[batch]`, \lambda instead of drawn ones.
    eps: added to the variance, above 0.
    where: `[batch]`, which examples count; no other becomes a partner.

  Returns:
    Features of the same shape and dtype. Statistics have a gradient, unlike
    MixStyle's.

  Raises:
    ValueError: if there is something to draw and no key, or `what` is unknown.

  Examples:
    >>> features = jnp.array([[0.0, 2.0], [10.0, 30.0]])
    >>> swapped = sagnet_randomize(
    ...   features, partners=jnp.array([1, 0]), weights=jnp.zeros(2)
    ... )
    >>> print(swapped.round().astype(int))
    [[10 30]
     [ 0  2]]

  References:
    Nam et al., `Reducing domain gap by reducing style bias
    <https://arxiv.org/abs/1910.11645>`_, 2021.
  """
  check_choice("what", what, ("style", "content"))
  check_positive("eps", eps)
  batch = features.shape[0]
  dtype = compute_dtype(features)
  drawn = partners is None or (weights is None and what == "style")
  keys = split_key("sagnet_randomize", key, drawn)
  if partners is None:
    partners = sample_partners(keys[0], batch, mix="random", where=where)
  if weights is None and what == "style":
    weights = jax.random.uniform(keys[1], (batch,), dtype)
  x = features.astype(dtype)
  added = as_number("eps", eps, dtype)
  mean, variance = _moments(x, (1, 2) if x.ndim == 4 else (1,))
  content = (x - mean) / jnp.sqrt(variance + added)
  if what == "content":
    content = jax.lax.stop_gradient(content[partners])
  else:
    share = expand(as_share("weights", weights, dtype, shape=(batch,)), x)
    mean = share * mean + (1 - share) * mean[partners]
    variance = share * variance + (1 - share) * variance[partners]
  mixed = content * jnp.sqrt(variance + added) + mean
  return mixed.astype(features.dtype)


@validate
def sagnet_adversarial_loss(
  style_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""SagNet's adversarial loss: features whose style tells no class.

  .. math:: \ell = -\operatorname*{mean}_c \log \operatorname{softmax}(z)_c

  the cross-entropy of the style network with uniform targets. It trains the
  features only; the style network is held.

  Args:
    style_logits: `[*batch, classes]`, of the style network on features whose
      content is random (:func:`sagnet_randomize`). A class at -inf is masked
      and not counted.

  Returns:
    One value an example. Published weight: 0.1 times the mean over the batch
    (authors and DomainBed).

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> print(sagnet_adversarial_loss(jnp.zeros((1, 4))))
    [1.3862944]

  References:
    Nam et al., `Reducing domain gap by reducing style bias
    <https://arxiv.org/abs/1910.11645>`_, 2021, equation 6.
  """
  logs = log_softened_softmax(style_logits)
  support = logs != -jnp.inf
  count = jnp.maximum(jnp.sum(support, -1, dtype=logs.dtype), 1)
  return -jnp.sum(jnp.where(support, logs, 0.0), -1) / count


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
  """Returns mean and variance over n - 1; that of a single value is 0."""
  mean = jnp.mean(x, axes, keepdims=True)
  count = x.size // mean.size
  squares = jnp.sum(jnp.square(x - mean), axes, keepdims=True)
  return mean, squares / max(count - 1, 1)


def _drawn(
  name: str,
  features: Array,
  key: Any | None,
  alpha: ArrayLike,
  probability: ArrayLike,
  mix: str,
  domains: Array | None,
  where: Array | None,
  partners: Array | None,
  weights: Array | None,
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
  """Returns partners and weights, drawn unless given."""
  check_choice("mix", mix, ("random", "crossdomain"))
  check_positive("alpha", alpha)
  check_range("probability", probability, 0.0, 1.0)
  batch, dtype = features.shape[0], compute_dtype(features)
  keys = split_key(name, key, partners is None or weights is None)
  if partners is None:
    partners = sample_partners(
      keys[0], batch, mix=mix, domains=domains, where=where
    )
  if weights is None:
    weights = sample_beta(keys[1], (batch,), alpha, alpha, dtype)
    chance = as_number("probability", probability, dtype)
    mixed = jax.random.uniform(keys[2], (), dtype) < chance
    weights = jnp.where(mixed, weights, 1.0)
  weights = as_share("weights", weights, dtype, shape=(batch,))
  return partners, jax.lax.stop_gradient(weights)
