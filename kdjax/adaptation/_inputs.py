"""Adaptation without training: styles of images, statistics of activations."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops._collectives import total
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import check_range
from kdjax.ops._validation import validate


@validate
def fourier_domain_adaptation(
  source_images: Float[Array, "*batch height width channels"],
  target_images: Float[Array, "*batch height width channels"],
  *,
  beta: ArrayLike = 0.01,
  half_width: ArrayLike | None = None,
) -> Float[Array, "*batch height width channels"]:
  r"""Fourier domain adaptation (FDA): the target's low frequencies, swapped in.

  .. math::
    x^{S \to T} = \mathcal F^{-1}\bigl(
      [M \cdot |\mathcal F x^T| + (1 - M) \cdot |\mathcal F x^S|]
      \cdot e^{i \angle \mathcal F x^S}\bigr), \qquad
    M_{uv} = \mathbb 1[|u|, |v| \le b]

  The amplitudes of the lowest frequencies are the target's (its style), all
  else is the source's (its content), phases included.

  Args:
    source_images: `[*batch, height, width, channels]`.
    target_images: of the same shape; pair them at random.
    beta: in [0, 0.5], the FRACTION of the shorter side that b is:
      b = floor(beta min(height, width)). Even 0 swaps the frequency 0, the
      channel's mean. May be traced.
    half_width: b itself, in frequencies (pixels of the spectrum), as the `beta`
      of TLlib is; it takes precedence. May be traced.

  Returns:
    Images of that shape, real; they may leave the range of pixel values.
    Published: fractions 0.01, 0.05 and 0.09 (the authors average over
    three models), b = 1 (TLlib).

  Raises:
    ValueError: if the shapes differ or a static number is out of range.

  The authors' PyTorch code takes the frequencies -b, ..., b - 1 (none for
  b = 0); this is their NumPy code, which is symmetric.

  Examples:
    >>> source, target = jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))
    >>> fourier_domain_adaptation(source, target, beta=0.0)[0, 0]
    Array([1.], dtype=float32)

  References:
    Yang and Soatto, `FDA: Fourier domain adaptation for semantic segmentation
    <https://arxiv.org/abs/2004.05498>`_, 2020.
  """
  dtype = jnp.promote_types(
    compute_dtype(source_images), compute_dtype(target_images)
  )
  height, width = source_images.shape[-3:-1]
  if half_width is None:
    check_range("beta", beta, 0.0, 0.5)
    side = min(height, width)
    if isinstance(beta, int | float):
      bound = jnp.asarray(math.floor(beta * side), dtype)
    else:
      bound = jnp.floor(as_number("beta", beta, dtype) * side)
  else:
    check_range("half_width", half_width, 0.0, float("inf"))
    bound = as_number("half_width", half_width, dtype)
  rows, columns = (
    jnp.abs(jnp.fft.fftfreq(n, 1 / n)).astype(dtype) for n in (height, width)
  )
  low = (rows[:, None] <= bound) & (columns[None] <= bound)
  low = low[..., None]
  axes = (-3, -2)
  source = jnp.fft.fft2(source_images.astype(dtype), axes=axes)
  target = jnp.fft.fft2(target_images.astype(dtype), axes=axes)
  _, phases = _polar(source)
  amplitudes, _ = _polar(target)
  low = jnp.broadcast_to(low, source.shape)
  mixed = jnp.where(low, amplitudes * phases, source)
  return jnp.real(jnp.fft.ifft2(mixed, axes=axes))


class NormStatistics(NamedTuple):
  """Mean and variance of activations, a channel.

  Attributes:
    mean: `[channels]`.
    variance: `[channels]`, over n (not n - 1).
    count: how many values of each channel they summarise.

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
  normalise each batch by itself on the way (training mode; what Dassl does,
  with a running mean), or go layer by layer, with the layers before done.

  Args:
    activations: `[batch, ..., channels]`, the inputs of one layer.
    statistics: of the batches before; None for the first.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    :class:`NormStatistics`; zeros while nothing counts.

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
  sums, count = total(
    (
      jnp.sum(jnp.where(keep, x, 0.0), axes),
      jnp.sum(keep[..., 0], dtype=dtype),
    ),
    axis_name,
  )
  mean = sums / jnp.maximum(count, 1)
  centred = x - jnp.reshape(mean, (1,) * (x.ndim - 1) + (channels,))
  squares = total(
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
    statistics: from :func:`adabn_statistics`.
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


def _polar(spectrum: Array) -> tuple[Array, Array]:
  """Returns |z| and z / |z|; at 0, 0 and 1 with gradient 0."""
  real, imaginary = jnp.real(spectrum), jnp.imag(spectrum)
  # Scaled, so that squares neither overflow nor vanish. What |z| is does not
  # depend on the scale, which therefore needs no gradient.
  top = jax.lax.stop_gradient(jnp.maximum(jnp.abs(real), jnp.abs(imaginary)))
  zero = top < jnp.finfo(real.dtype).tiny
  scale = jnp.where(zero, 1.0, top)
  real = jnp.where(zero, 1.0, real / scale)
  imaginary = jnp.where(zero, 0.0, imaginary / scale)
  norm = jnp.sqrt(jnp.square(real) + jnp.square(imaginary))
  phase = jax.lax.complex(real / norm, imaginary / norm)
  return jnp.where(zero, 0.0, scale * norm), phase
