"""Adaptive batch normalization (AdaBN)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


class NormStatistics(NamedTuple):
  """Mean and variance of activations, a channel.

  Attributes:
    mean: `[channels]`.
    variance: `[channels]`, over n (not n - 1).
    count: how many values of each channel they summarize.

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016.
  """

  mean: Float[Array, " channels"]
  variance: Float[Array, " channels"]
  count: Float[Array, ""]


@validate
def adabn_statistics(
  activations: Float[Array, "batch ... channels"],
  statistics: NormStatistics | None = None,
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> NormStatistics:
  r"""Adaptive batch normalization (AdaBN): the target's own statistics.

  .. math::
    \mu = \operatorname{mean} x, \qquad
    \sigma^2 = \operatorname{mean} (x - \mu)^2

  of the inputs of a normalization layer over all target data, batch by batch:
  the old statistics are merged with the new batch's exactly (Chan et al.),
  whatever the order and the sizes. Put them in the place of the source's.

  The inputs of a layer depend on the statistics of those before it. Either
  normalize each batch by itself on the way (training mode; what Dassl does,
  with a running mean), or go layer by layer, with the layers before done.

  Args:
    activations: `[batch, ..., channels]`, the inputs of one layer.
    statistics: of the batches before; None for the first.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `NormStatistics`; zeros while nothing counts.

  Raises:
    ValueError: if the channels differ.
    TypeError: if the activations are not floating-point.

  Examples:
    >>> first = adabn_statistics(jnp.array([[1.0], [3.0]]))
    >>> adabn_statistics(jnp.array([[5.0]]), first).mean
    Array([3.], dtype=float32)

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016; Chan, Golub and LeVeque,
    `Updating formulae and a pairwise algorithm for computing sample variances
    <https://doi.org/10.1007/978-3-642-51461-6_3>`_, 1982.
  """
  dtype = compute_dtype(activations)
  x = activations.astype(dtype)
  channels = x.shape[-1]
  if statistics is not None and statistics.mean.shape != (channels,):
    raise ValueError(
      f"adabn_statistics: statistics has {statistics.mean.shape} channels; "
      f"expected {(channels,)}, as in activations."
    )
  keep = jnp.ones(x.shape[:1], bool) if where is None else where
  keep = jnp.broadcast_to(jnp.expand_dims(keep, range(1, x.ndim)), x.shape)
  axes = tuple(range(x.ndim - 1))
  sums, count = sum_over_devices(
    (
      jnp.sum(jnp.where(keep, x, 0.0), axes),
      jnp.sum(keep[..., 0], dtype=dtype),
    ),
    axis_name,
  )
  mean = sums / jnp.maximum(count, 1)
  centred = x - jnp.reshape(mean, (1,) * (x.ndim - 1) + (channels,))
  squares = sum_over_devices(
    jnp.sum(jnp.where(keep, jnp.square(centred), 0.0), axes), axis_name
  )
  variance = squares / jnp.maximum(count, 1)
  if statistics is None:
    return NormStatistics(mean, variance, count)
  whole = jnp.maximum(statistics.count + count, 1)
  share = count / whole
  gap = mean - statistics.mean
  return NormStatistics(
    statistics.mean + share * gap,
    (1 - share) * statistics.variance
    + share * variance
    + share * (1 - share) * jnp.square(gap),
    statistics.count + count,
  )


@validate
def adabn_normalize(
  activations: Float[Array, "*batch channels"],
  statistics: NormStatistics,
  scale: Float[Array, " channels"] | None = None,
  bias: Float[Array, " channels"] | None = None,
  *,
  eps: ArrayLike = 1e-5,
) -> Float[Array, "*batch channels"]:
  r"""Normalization by the statistics of one domain (AdaBN, domain-specific BN).

  .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

  Domain-specific batch normalization keeps one set of statistics, and of scale
  and bias, a domain, and picks by the domain of the batch.

  Args:
    activations: `[*batch, channels]`.
    statistics: from `adabn_statistics`.
    scale: gamma, `[channels]`; 1 by default.
    bias: beta, `[channels]`; 0 by default.
    eps: epsilon > 0. May be traced.

  Returns:
    An array of that shape; float32 for half-precision activations.

  Raises:
    ValueError: if the channels differ or a static `eps` is not above 0.

  Examples:
    >>> x = jnp.array([[1.0], [3.0]])
    >>> adabn_normalize(x, adabn_statistics(x), eps=1e-9).ravel()
    Array([-1.,  1.], dtype=float32)

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016; Chang et al., `Domain-specific
    batch normalization <https://arxiv.org/abs/1906.03950>`_, 2019.
  """
  check_positive("eps", eps)
  x = activations.astype(compute_dtype(activations))
  channels = x.shape[-1:]
  if statistics.mean.shape != channels:
    raise ValueError(
      f"adabn_normalize: statistics has {statistics.mean.shape} channels; "
      f"expected {channels}, as in activations."
    )
  small = as_number("eps", eps, x.dtype)
  slope = 1 / jnp.sqrt(statistics.variance.astype(x.dtype) + small)
  if scale is not None:
    slope = slope * scale.astype(x.dtype)
  lead = (1,) * (x.ndim - 1) + channels
  centred = x - statistics.mean.astype(x.dtype).reshape(lead)
  y = centred * slope.reshape(lead)
  return y if bias is None else y + bias.astype(x.dtype).reshape(lead)
