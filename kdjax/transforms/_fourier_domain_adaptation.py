"""Fourier domain adaptation (FDA)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def fourier_domain_adaptation(
  source_images: Float[Array, "*batch height width channels"],
  target_images: Float[Array, "*batch height width channels"],
  *,
  beta: ArrayLike = 0.01,
  half_width: ArrayLike | None = None,
) -> Float[Array, "*batch height width channels"]:
  r"""Fourier domain adaptation (FDA): exchanges low-frequency amplitudes.

  .. math::
    x^{S \to T} = \mathcal F^{-1}\bigl(
      [M \cdot |\mathcal F x^T| + (1 - M) \cdot |\mathcal F x^S|]
      \cdot e^{i \angle \mathcal F x^S}\bigr), \qquad
    M_{uv} = \mathbb 1[|u|, |v| \le b]

  The result has the amplitudes of the lowest frequencies of the target (its
  style), and all phases and other amplitudes of the source (its content).

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    source_images: `[*batch, height, width, channels]`.
    target_images: of the same shape, in random pairs with the source images.
    beta: in [0, 0.5], b as a FRACTION of the shorter side:
      b = floor(beta min(height, width)). 0 exchanges frequency 0, the mean of
      each channel. May be traced.
    half_width: b in frequencies (pixels of the spectrum), as TLlib's `beta`. It
      takes precedence over `beta`. May be traced.

  Returns:
    Real images of the same shape; values may leave the range of pixel values.
    Published: fractions 0.01, 0.05 and 0.09 (the authors average three models),
    b = 1 (TLlib).

  Raises:
    ValueError: if the shapes differ or a static number is out of range.

  The authors' PyTorch code exchanges the frequencies -b, ..., b - 1 (none for
  b = 0). This function follows their NumPy code, which is symmetric.

  Examples:
    >>> source, target = jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))
    >>> fourier_domain_adaptation(source, target, beta=0.0)[0, 0]
    Array([1.], dtype=float32)

  References:
    Yang and Soatto, `FDA: Fourier domain adaptation for semantic segmentation
    <https://arxiv.org/abs/2004.05498>`_, 2020.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(source_images), ops.compute_dtype(target_images)
  )
  height, width = source_images.shape[-3:-1]
  if half_width is None:
    ops.check_range("beta", beta, 0.0, 0.5)
    side = min(height, width)
    if isinstance(beta, int | float):
      bound = jnp.asarray(math.floor(beta * side), dtype)
    else:
      bound = jnp.floor(ops.as_number("beta", beta, dtype) * side)
  else:
    ops.check_range("half_width", half_width, 0.0, float("inf"))
    bound = ops.as_number("half_width", half_width, dtype)
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


def _polar(spectrum: Array) -> tuple[Array, Array]:
  """Returns |z| and z / |z|; at z = 0, they are 0 and 1 with gradient 0."""
  real, imaginary = jnp.real(spectrum), jnp.imag(spectrum)
  # Scaled, so that squares neither overflow nor underflow. |z| does not depend
  # on the scale, so the scale needs no gradient.
  top = jax.lax.stop_gradient(jnp.maximum(jnp.abs(real), jnp.abs(imaginary)))
  zero = top < jnp.finfo(real.dtype).tiny
  scale = jnp.where(zero, 1.0, top)
  real = jnp.where(zero, 1.0, real / scale)
  imaginary = jnp.where(zero, 0.0, imaginary / scale)
  norm = jnp.sqrt(jnp.square(real) + jnp.square(imaginary))
  phase = jax.lax.complex(real / norm, imaginary / norm)
  return jnp.where(zero, 0.0, scale * norm), phase
