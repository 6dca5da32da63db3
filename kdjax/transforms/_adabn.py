"""Adaptive batch normalization (AdaBN)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.exportable
class NormStatistics(NamedTuple):
  """Mean and variance of activations, for each channel.

  Attributes:
    mean: `[channels]`.
    variance: `[channels]`, divided by n (not n - 1).
    count: the number of values a channel.
  """

  mean: Float[Array, " channels"]
  variance: Float[Array, " channels"]
  count: Float[Array, ""]


def adabn_init(num_channels: int) -> NormStatistics:
  """Statistics of no data, the start of `adabn_update`.

  Args:
    num_channels: the number of channels of the layer.

  Returns:
    `NormStatistics` of zeros.

  Raises:
    ValueError: if `num_channels` is not positive.
    TypeError: if `num_channels` is not an integer.

  Examples:
    >>> adabn_init(2).count
    Array(0., dtype=float32)

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016.
  """
  ops.check_integer("num_channels", num_channels, 1)
  zeros = jnp.zeros(num_channels, jnp.float32)
  return NormStatistics(zeros, zeros, zeros[0])


@ops.validate
def adabn_update(
  statistics: NormStatistics,
  activations: Float[Array, "batch ... channels"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> NormStatistics:
  r"""Adaptive batch normalization (AdaBN): statistics of the target domain.

  .. math::
    \mu = \operatorname{mean} x, \qquad
    \sigma^2 = \operatorname{mean} (x - \mu)^2

  over the inputs of a normalization layer, for all target data. Each call adds
  one batch; the merged statistics are exact for batches of any size and order
  (Chan et al.). They replace the source statistics of the layer.

  The inputs of a layer depend on the statistics of earlier layers. Either run
  the network in training mode, which normalizes each batch by its own
  statistics (Dassl, with a running mean), or update layer by layer, from the
  first layer to the last.

  Args:
    statistics: of the batches so far, from `adabn_init` and `adabn_update`.
    activations: `[batch, ..., channels]`, the inputs of one layer.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    The new `NormStatistics`; the old ones if no example is unmasked.

  Raises:
    ValueError: if the channels differ.
    TypeError: if the activations are not floating-point.

  Examples:
    >>> first = adabn_update(adabn_init(1), jnp.array([[1.0], [3.0]]))
    >>> adabn_update(first, jnp.array([[5.0]])).mean
    Array([3.], dtype=float32)

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016; Chan, Golub and LeVeque,
    `Updating formulae and a pairwise algorithm for computing sample variances
    <https://doi.org/10.1007/978-3-642-51461-6_3>`_, 1982.
  """
  dtype = ops.compute_dtype(activations)
  x = activations.astype(dtype)
  channels = x.shape[-1]
  if statistics.mean.shape != (channels,):
    raise ValueError(
      f"adabn_update: statistics has {statistics.mean.shape} channels; "
      f"expected {(channels,)}, as in activations."
    )
  keep = jnp.ones(x.shape[:1], bool) if where is None else where
  keep = jnp.broadcast_to(jnp.expand_dims(keep, range(1, x.ndim)), x.shape)
  axes = tuple(range(x.ndim - 1))
  sums, count = ops.sum_over_devices(
    (
      jnp.sum(jnp.where(keep, x, 0.0), axes),
      jnp.sum(keep[..., 0], dtype=dtype),
    ),
    axis_name,
  )
  mean = sums / jnp.maximum(count, 1)
  centered = x - jnp.reshape(mean, (1,) * (x.ndim - 1) + (channels,))
  squares = ops.sum_over_devices(
    jnp.sum(jnp.where(keep, jnp.square(centered), 0.0), axes), axis_name
  )
  variance = squares / jnp.maximum(count, 1)
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


@ops.validate
def adabn_normalize(
  activations: Float[Array, "*batch channels"],
  statistics: NormStatistics,
  scale: Float[Array, " channels"] | None = None,
  bias: Float[Array, " channels"] | None = None,
  *,
  epsilon: ArrayLike = 1e-5,
) -> Float[Array, "*batch channels"]:
  r"""Normalization by the statistics of one domain (AdaBN, domain-specific BN).

  .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

  Domain-specific batch normalization keeps statistics, scale and bias of each
  domain and uses those of the batch's domain.

  Args:
    activations: `[*batch, channels]`.
    statistics: from `adabn_update`.
    scale: gamma, `[channels]`; 1 by default.
    bias: beta, `[channels]`; 0 by default.
    epsilon: > 0. May be traced.

  Returns:
    An array of the shape of `activations`; float32 for half precision.

  Raises:
    ValueError: if the channels differ or a static `epsilon` is not above 0.

  Examples:
    >>> x = jnp.array([[1.0], [3.0]])
    >>> adabn_normalize(x, adabn_update(adabn_init(1), x), epsilon=1e-9).T
    Array([[-1.,  1.]], dtype=float32)

  References:
    Li et al., `Revisiting batch normalization for practical domain adaptation
    <https://arxiv.org/abs/1603.04779>`_, 2016; Chang et al., `Domain-specific
    batch normalization <https://arxiv.org/abs/1906.03950>`_, 2019.
  """
  ops.check_positive("epsilon", epsilon)
  x = activations.astype(ops.compute_dtype(activations))
  channels = x.shape[-1:]
  if statistics.mean.shape != channels:
    raise ValueError(
      f"adabn_normalize: statistics has {statistics.mean.shape} channels; "
      f"expected {channels}, as in activations."
    )
  small = ops.as_number("epsilon", epsilon, x.dtype)
  slope = 1 / jnp.sqrt(statistics.variance.astype(x.dtype) + small)
  if scale is not None:
    slope = slope * scale.astype(x.dtype)
  lead = (1,) * (x.ndim - 1) + channels
  centered = x - statistics.mean.astype(x.dtype).reshape(lead)
  y = centered * slope.reshape(lead)
  return y if bias is None else y + bias.astype(x.dtype).reshape(lead)
