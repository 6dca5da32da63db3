"""Domain shifts: pure functions that change the domain of images.

The default scale is that of the library's sources, 0..255. Integer images are
computed in float32 and rounded.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike
from jaxtyping import Num

from kdjax import ops


@ops.validate
def rotate(
  images: Num[Array, "batch height width channels"], degrees: ArrayLike
) -> Num[Array, "batch height width channels"]:
  """Rotation: turns images about their center, bilinearly, with zero padding.

  Args:
    images: [batch, height, width, channels] of any dtype.
    degrees: the counter-clockwise angle, one for all images or [batch].

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if images has another rank.

  Examples:
    >>> images = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> rotate(images, 90.0)[0, :, :, 0].round(4)
    Array([[1., 3.],
           [0., 2.]], dtype=float32)

  References:
    Ghifary et al., `Domain generalization for object recognition with
    multi-task autoencoders <https://arxiv.org/abs/1508.07680>`_, 2015, for
    rotated MNIST.
  """
  batch, height, width, _ = images.shape
  angles = jnp.broadcast_to(
    jnp.deg2rad(jnp.asarray(degrees, jnp.float32)), (batch,)
  )
  rows = (jnp.arange(height) - (height - 1) / 2)[:, None]
  columns = (jnp.arange(width) - (width - 1) / 2)[None, :]

  def rotate_image(image: Array, angle: Array) -> Array:
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    # The source position of each pixel of the result; rows point down.
    sources = [
      cosine * rows + sine * columns + (height - 1) / 2,
      cosine * columns - sine * rows + (width - 1) / 2,
    ]
    sample = functools.partial(map_coordinates, coordinates=sources, order=1)
    return jax.vmap(sample, -1, -1)(image)

  return as_dtype_of(
    jax.vmap(rotate_image)(images.astype(ops.compute_dtype(images)), angles),
    images,
  )


@ops.validate
def invert(
  images: Num[Array, "batch height width channels"],
  *,
  maximum: ArrayLike = 255,
) -> Num[Array, "batch height width channels"]:
  """Inversion: exchanges black and white.

  Args:
    images: [batch, height, width, channels] of any dtype.
    maximum: the value of white; 1 for images in 0..1.

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if images has another rank.

  Examples:
    >>> invert(jnp.array([0, 5, 255], jnp.uint8).reshape(1, 1, 3, 1)).ravel()
    Array([255, 250,   0], dtype=uint8)

  References:
    Bousmalis et al., `Domain separation networks
    <https://arxiv.org/abs/1608.06019>`_, 2016, for inverted digits.
  """
  return as_dtype_of(
    jnp.asarray(maximum, jnp.float32)
    - images.astype(ops.compute_dtype(images)),
    images,
  )


@ops.validate
def blend_noise(
  key: Array,
  images: Num[Array, "batch height width channels"],
  *,
  strength: ArrayLike = 0.5,
  maximum: ArrayLike = 255,
) -> Num[Array, "batch height width channels"]:
  r"""Noise blending: blends images with uniform noise for each pixel.

  .. math::
    (1 - s) x + s u, \qquad u \sim \operatorname{Uniform}(0, \max)

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels] of any dtype.
    strength: s, from 0 (the images) to 1 (only noise).
    maximum: the value of white; 1 for images in 0..1.

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if strength is outside [0, 1] or images has another rank.

  Examples:
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> noisy = blend_noise(jax.random.key(0), images, strength=0.0)
    >>> bool((noisy == images).all())
    True

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016; its MNIST-M blends digits with
    patches of photographs.
  """
  ops.check_range("strength", strength, 0.0, 1.0)
  precise = images.astype(ops.compute_dtype(images))
  noise = jax.random.uniform(key, images.shape, precise.dtype)
  strength = jnp.asarray(strength, precise.dtype)
  maximum = jnp.asarray(maximum, precise.dtype)
  return as_dtype_of(
    (1 - strength) * precise + strength * maximum * noise, images
  )


@ops.validate
def resize(
  images: Num[Array, "batch height width channels"],
  shape: tuple[int, int],
  *,
  crop: int = 0,
) -> Num[Array, "batch new_height new_width channels"]:
  """Resizing: bilinear, with antialiasing.

  `resize(mnist, (8, 8), crop=4)` makes MNIST similar to the 8x8 digits, which
  fill the image; those of MNIST fill only the central 20x20 of 28x28 pixels.

  Args:
    images: [batch, height, width, channels] of any dtype.
    shape: the new height and width.
    crop: the number of pixels to remove on each side first.

  Returns:
    [batch, *shape, channels].

  Raises:
    ValueError: if shape is not two positive integers, crop removes the whole
      image, or images has another rank.

  Examples:
    >>> resize(jnp.ones((2, 28, 28, 1)), (8, 8), crop=4).shape
    (2, 8, 8, 1)
  """
  shape = ops.as_sizes("shape", shape, 2)
  batch, height, width, channels = images.shape
  if not 0 <= 2 * crop < min(height, width):
    raise ValueError(
      f"crop is {crop}; expected 0 or more and less than half of "
      f"{(height, width)}."
    )
  inner = images.astype(ops.compute_dtype(images))[
    :, crop : height - crop, crop : width - crop
  ]
  resized = jax.image.resize(inner, (batch, *shape, channels), "linear")
  return as_dtype_of(resized, images)


def as_dtype_of(values: Array, images: Array) -> Array:
  """Returns values in the dtype of images, rounded and clipped for integers."""
  if jnp.issubdtype(images.dtype, jnp.integer):
    limits = jnp.iinfo(images.dtype)
    values = jnp.clip(jnp.round(values), limits.min, limits.max)
  return values.astype(images.dtype)
