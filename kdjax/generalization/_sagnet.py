"""Style-agnostic networks (SagNet)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.generalization._mixing_partners import (
  add_trailing_axes,
  sample_partners,
  split_key,
)
from kdjax.generalization._mixstyle import style_moments


@ops.validate
def sagnet_randomize(
  key: Any | None,
  features: Float[Array, "batch height width channels"]
  | Float[Array, "batch dims"],
  *,
  part: str = "style",
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  epsilon: ArrayLike = 1e-5,
  where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "batch height width channels"] | Float[Array, "batch dims"]:
  r"""Style-agnostic network (SagNet): randomizes the style or the content.

  .. math::
    \text{style:}\quad y_i = \sqrt{v'_i + \epsilon}\, \hat x_i + \mu'_i,
    \qquad (\mu', v')_i = \lambda_i (\mu, v)_i
      + (1 - \lambda_i) (\mu, v)_{\pi(i)}

  .. math::
    \text{content:}\quad y_i = \sqrt{v_i + \epsilon}\,
      \operatorname{sg}[\hat x_{\pi(i)}] + \mu_i, \qquad
    \hat x = (x - \mu) / \sqrt{v + \epsilon}

  with the mean and the variance (over n - 1) of a channel's positions, or of
  all entries of a vector. A step trains the features and the content network
  with random "style", the style network with random "content", and then the
  features alone by `sagnet_adversarial_loss`.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    key: draws partners, a permutation, and weights, uniform in [0, 1]; None if
      they are given ("content" needs no weights).
    features: maps `[batch, height, width, channels]` or `[batch, dims]`.
    part: the part to randomize, "style" or "content".
    partners: `[batch]`, indices \pi(i) to use instead of drawn ones.
    weights: `[batch]`, \lambda to use instead of drawn ones.
    epsilon: added to the variance, above 0. May be traced.
    where: `[batch]`, True for the examples to use; only they become partners.

  Returns:
    Features of the same shape and dtype. The statistics have a gradient, unlike
    those of `mixstyle`.

  Raises:
    ValueError: if the key is None and partners or weights are not given, or
      `part` is unknown.

  Examples:
    >>> features = jnp.array([[0.0, 2.0], [10.0, 30.0]])
    >>> swapped = sagnet_randomize(
    ...   None, features, partners=jnp.array([1, 0]), weights=jnp.zeros(2)
    ... )
    >>> print(swapped.round().astype(int))
    [[10 30]
     [ 0  2]]

  References:
    Nam et al., `Reducing domain gap by reducing style bias
    <https://arxiv.org/abs/1910.11645>`_, 2021.
  """
  ops.check_choice("part", part, ("style", "content"))
  ops.check_positive("epsilon", epsilon)
  batch = features.shape[0]
  dtype = ops.compute_dtype(features)
  drawn = partners is None or (weights is None and part == "style")
  keys = split_key("sagnet_randomize", key, drawn)
  if partners is None:
    partners = sample_partners(keys[0], batch, mix="random", where=where)
  if weights is None and part == "style":
    weights = jax.random.uniform(keys[1], (batch,), dtype)
  x = features.astype(dtype)
  added = ops.as_number("epsilon", epsilon, dtype)
  mean, variance = style_moments(x, (1, 2) if x.ndim == 4 else (1,))
  content = (x - mean) / jnp.sqrt(variance + added)
  if part == "content":
    content = jax.lax.stop_gradient(content[partners])
  else:
    share = add_trailing_axes(
      ops.as_fraction("weights", weights, dtype, shape=(batch,)), x
    )
    mean = share * mean + (1 - share) * mean[partners]
    variance = share * variance + (1 - share) * variance[partners]
  mixed = content * jnp.sqrt(variance + added) + mean
  return mixed.astype(features.dtype)


@ops.validate
def sagnet_adversarial_loss(
  style_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Style-agnostic network (SagNet): the adversarial loss of the features.

  .. math:: \ell = -\operatorname*{mean}_c \log \operatorname{softmax}(z)_c

  the cross-entropy of the style network with uniform targets, so that the style
  of the features predicts no class. It trains the features only; freeze the
  style network.

  Args:
    style_logits: `[*batch, classes]`, of the style network on features with
      random content (`sagnet_randomize`). A class at -inf is masked and is not
      in the mean.

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
  logs = ops.log_softened_softmax(style_logits)
  support = logs != -jnp.inf
  count = jnp.maximum(jnp.sum(support, -1, dtype=logs.dtype), 1)
  return -jnp.sum(jnp.where(support, logs, 0.0), -1) / count
