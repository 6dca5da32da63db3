"""Style-agnostic networks (SagNet)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.generalization._mixing_partners import expand
from kdjax.generalization._mixing_partners import sample_partners
from kdjax.generalization._mixing_partners import split_key
from kdjax.generalization._style_statistics import style_moments
from kdjax.ops import as_fraction
from kdjax.ops import as_number
from kdjax.ops import check_choice
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import log_softened_softmax
from kdjax.ops import validate


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
  the style network undecided (`sagnet_adversarial_loss`).

  Args:
    features: maps `[batch, height, width, channels]` or `[batch, dims]`.
    key: draws partners, a permutation, and weights, uniform in [0, 1]; may be
      absent if they are given ("content" needs no weights).
    what: is randomized, "style" or "content".
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
  mean, variance = style_moments(x, (1, 2) if x.ndim == 4 else (1,))
  content = (x - mean) / jnp.sqrt(variance + added)
  if what == "content":
    content = jax.lax.stop_gradient(content[partners])
  else:
    share = expand(as_fraction("weights", weights, dtype, shape=(batch,)), x)
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
      content is random (`sagnet_randomize`). A class at -inf is masked
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
