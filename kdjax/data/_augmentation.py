"""Augmentation of image batches: pure functions of a key, for use inside jit.

They keep shape and dtype, and draw independently for every image unless the
paper does not. They never loop in Python.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num

from kdjax import ops
from kdjax.data._domain_shifts import as_dtype_of


def augment_examples(
  augment: Callable[[Any, Any], Any],
  images: Any,
  index: Any,
  seed: ArrayLike,
) -> Any:
  """Augments each example by a key made from its index and a seed.

  An example and a seed give the same view in any batch, at any position and on
  any number of devices. Therefore the outputs of a teacher can be stored
  (`write_teacher_cache`) and still belong to the views of the student. An
  augmentation that mixes the examples of a batch, such as `mixup`, does not
  work here, because each example is augmented as a batch of one.

  Args:
    augment: `(key, images) -> images`, for any batch size.
    images: [batch, ...].
    index: int [batch], the position of each example in the data set.
    seed: the seed of the pass over the data, such as the epoch. May be traced.

  Returns:
    [batch, ...], the augmented images.

  Examples:
    >>> images = jnp.arange(32.0).reshape(2, 4, 4, 1)
    >>> views = augment_examples(random_crop, images, jnp.array([7, 3]), 0)
    >>> alone = augment_examples(random_crop, images[1:], jnp.array([3]), 0)
    >>> bool((views[1:] == alone).all())
    True

  References:
    Shen and Xing, `A fast knowledge distillation framework for visual
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021, which stores the
    parameters of each view instead.
  """
  key = jax.random.key(seed)

  def view(image: Array, position: Array) -> Array:
    return augment(jax.random.fold_in(key, position), image[None])[0]

  return jax.vmap(view)(jnp.asarray(images), jnp.asarray(index))


@ops.validate
def random_crop(
  key: Array,
  images: Num[Array, "batch height width channels"],
  *,
  padding: int = 4,
) -> Num[Array, "batch height width channels"]:
  """Random crop: pads each image and shifts it by up to `padding` pixels.

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels] of any dtype.
    padding: the zeros to add on each side before a crop of the original size; a
      static number.

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if padding is negative or images has another rank.

  Examples:
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> random_crop(jax.random.key(0), images, padding=1).shape
    (2, 8, 8, 1)

  References:
    He et al., `Deep residual learning <https://arxiv.org/abs/1512.03385>`_,
    2015, section 4.2.
  """
  if padding < 0:
    raise ValueError(f"padding is {padding}; expected 0 or more.")
  batch, *shape = images.shape
  sides = (padding, padding)
  padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
  offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

  def crop(image: Array, offset: Array) -> Array:
    return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)

  return jax.vmap(crop)(padded, offsets)


@ops.validate
def random_resized_crop(
  key: Array,
  images: Num[Array, "batch height width channels"],
  shape: tuple[int, int],
  *,
  area: tuple[float, float] = (0.05, 1.0),
  aspect: tuple[float, float] = (0.75, 1.33),
) -> Num[Array, "batch new_height new_width channels"]:
  """Inception crop: resizes a random part of each image bilinearly.

  As in TensorFlow, the aspect ratio is drawn uniformly, then the height among
  the heights that the area and the image allow. torchvision draws the area and
  the logarithm of the ratio. Heights are not rounded to whole pixels, and
  resizing does not antialias.

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels] of any dtype.
    shape: the new height and width.
    area: the smallest and the largest fraction of the image's area.
    aspect: the smallest and the largest ratio of width to height.

  Returns:
    [batch, *shape, channels].

  Raises:
    ValueError: if shape is not two positive integers, area or aspect is not an
      increasing positive pair, area exceeds 1, or images has another rank.

  Examples:
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> random_resized_crop(jax.random.key(0), images, (4, 4)).shape
    (2, 4, 4, 1)

  References:
    Szegedy et al., `Going deeper with convolutions
    <https://arxiv.org/abs/1409.4842>`_, 2014, section 6;
    `tf.image.sample_distorted_bounding_box
    <https://www.tensorflow.org/api_docs/python/tf/image/sample_distorted_bounding_box>`_.
  """
  shape = ops.as_sizes("shape", shape, 2)
  for name, (low, high) in (("area", area), ("aspect", aspect)):
    if not 0 < low <= high or (name == "area" and high > 1):
      raise ValueError(
        f"{name} is {(low, high)}; expected an increasing pair above 0"
        + (", up to 1." if name == "area" else ".")
      )
  batch, height, width, channels = images.shape
  precise = images.astype(ops.compute_dtype(images))

  def crop(key: Array, image: Array) -> Array:
    keys = jax.random.split(key, 3)
    ratio = jax.random.uniform(keys[0], (), minval=aspect[0], maxval=aspect[1])
    whole = jnp.minimum(height, width / ratio)
    low, high = (
      jnp.minimum(jnp.sqrt(part * height * width / ratio), whole)
      for part in area
    )
    rows = jax.random.uniform(keys[1], (), minval=low, maxval=high)
    size = jnp.stack([rows, rows * ratio])
    spare = jnp.array([height, width]) - size
    corner = spare * jax.random.uniform(keys[2], (2,))
    scale = jnp.array(shape) / size
    return jax.image.scale_and_translate(
      image,
      (*shape, channels),
      (0, 1),
      scale,
      -corner * scale,
      "linear",
      antialias=False,
    )

  crops = jax.vmap(crop)(jax.random.split(key, batch), precise)
  return as_dtype_of(crops, images)


@ops.validate
def random_flip(
  key: Array,
  images: Num[Array, "batch height width channels"],
  *,
  probability: ArrayLike = 0.5,
) -> Num[Array, "batch height width channels"]:
  """Random horizontal flip: mirrors each image with some probability.

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels] of any dtype.
    probability: the probability of a flip.

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if probability is outside [0, 1] or images has another rank.

  Examples:
    >>> images = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> random_flip(jax.random.key(0), images, probability=1.0).ravel()
    Array([2., 1., 0.], dtype=float32)

  References:
    He et al., `Deep residual learning <https://arxiv.org/abs/1512.03385>`_,
    2015, section 4.2.
  """
  ops.check_range("probability", probability, 0.0, 1.0)
  flipped = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
  return jnp.where(flipped, images[:, :, ::-1], images)


@ops.validate
def cutout(
  key: Array,
  images: Num[Array, "batch height width channels"],
  *,
  size: ArrayLike = 8,
) -> Num[Array, "batch height width channels"]:
  """Cutout: sets a square at a random position of each image to 0.

  As in the authors' code, the center is uniform over the image, so the square
  may extend beyond the border. Its side is even: 2 * (size // 2).

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels] of any dtype. The square is 0, the
      mean of normalized images.
    size: the side of the square; 16 on CIFAR-10 and 8 on CIFAR-100 in the
      paper.

  Returns:
    [batch, height, width, channels].

  Raises:
    ValueError: if images has another rank.

  Examples:
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> bool((cutout(jax.random.key(0), images, size=4) == 0).any())
    True

  References:
    DeVries and Taylor, `Improved regularization of convolutional neural
    networks with cutout <https://arxiv.org/abs/1708.04552>`_, 2017.
  """
  batch, height, width, _ = images.shape
  row_key, column_key = jax.random.split(key)
  rows = _span(row_key, batch, height, size)[:, :, None, None]
  columns = _span(column_key, batch, width, size)[:, None, :, None]
  return jnp.where(rows & columns, jnp.zeros((), images.dtype), images)


def _span(
  key: Array, batch: int, length: int, size: ArrayLike
) -> Bool[Array, "batch length"]:
  """Returns True for positions at most size // 2 from a random center."""
  center = jax.random.randint(key, (batch, 1), 0, length)
  distance = jnp.arange(length)[None, :] - center
  half = jnp.asarray(size) // 2
  return (-half <= distance) & (distance < half)


@ops.validate
def mixup(
  key: Array,
  images: Float[Array, "batch height width channels"],
  labels: Float[Array, "batch classes"],
  *,
  alpha: ArrayLike = 1.0,
) -> tuple[
  Float[Array, "batch height width channels"], Float[Array, "batch classes"]
]:
  r"""Mixup: blends each image and its soft label with those of a partner.

  .. math::
    \tilde x_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad
    \tilde y_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \qquad
    \lambda \sim \operatorname{Beta}(\alpha, \alpha)

  As in the authors' code, a batch has one weight lambda and one permutation pi.
  A row that pads the batch may be a partner, because it is a real example.

  Args:
    key: a PRNG key.
    images: [batch, height, width, channels], floating point: normalize first.
    labels: [batch, classes], soft or one-hot.
    alpha: the parameter of the Beta distribution; small values blend less.

  Returns:
    The blended images and the blended labels.

  Raises:
    ValueError: if alpha is not positive or the batch sizes differ.
    TypeError: if images or labels are integers.

  Examples:
    >>> images, labels = jnp.ones((2, 4, 4, 1)), jnp.eye(2)
    >>> _, soft = mixup(jax.random.key(0), images, labels)
    >>> soft.sum(-1)
    Array([1., 1.], dtype=float32)

  References:
    Zhang et al., `mixup: Beyond empirical risk minimization
    <https://arxiv.org/abs/1710.09412>`_, 2017.
  """
  ops.check_positive("alpha", alpha)
  weight_key, order_key = jax.random.split(key)
  weight = jax.random.beta(weight_key, alpha, alpha)
  order = jax.random.permutation(order_key, images.shape[0])

  def blend(values: Array) -> Array:
    precise = values.astype(ops.compute_dtype(values))
    partner = precise[order]
    return (partner + weight * (precise - partner)).astype(values.dtype)

  return blend(images), blend(labels)


@ops.validate
def normalize(
  images: Num[Array, "batch height width channels"],
  mean: Float[Array, " channels"],
  deviation: Float[Array, " channels"],
) -> Float[Array, "batch height width channels"]:
  """Normalization: subtracts the mean and divides by the standard deviation.

  Args:
    images: [batch, height, width, channels] of any dtype.
    mean: [channels], in the scale of the images; see `channel_statistics`.
    deviation: [channels], the standard deviation in the scale of the images.

  Returns:
    [batch, height, width, channels]; float32 for integer images, else in the
    dtype of the images.

  Raises:
    ValueError: if mean or deviation has another number of channels.

  Examples:
    >>> images = jnp.full((1, 1, 1, 1), 255, jnp.uint8)
    >>> normalize(images, jnp.array([5.0]), jnp.array([125.0])).ravel()
    Array([2.], dtype=float32)

  References:
    Krizhevsky et al., `ImageNet classification with deep convolutional neural
    networks <https://dl.acm.org/doi/10.1145/3065386>`_, 2012, section 2.
  """
  precise = images.astype(ops.compute_dtype(images))
  mean, deviation = (x[None, None, None, :] for x in (mean, deviation))
  floating = jnp.issubdtype(images.dtype, jnp.floating)
  return ((precise - mean) / deviation).astype(
    images.dtype if floating else precise.dtype
  )


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Channel statistics: the mean and the standard deviation of each channel.

  Args:
    images: [n, height, width, channels], of the training set.

  Returns:
    The mean and the standard deviation in the scale of the images, float32
    [channels] each, for `normalize`. A constant channel has the deviation 1, so
    that it normalizes to 0.

  Examples:
    >>> channel_statistics(np.array([0, 2]).reshape(2, 1, 1, 1))
    (array([1.], dtype=float32), array([1.], dtype=float32))

  References:
    Krizhevsky et al., `ImageNet classification with deep convolutional neural
    networks <https://dl.acm.org/doi/10.1145/3065386>`_, 2012, section 2.
  """
  mean = images.mean((0, 1, 2), dtype=np.float64)
  # In parts, because a float64 copy of a training set needs too much memory.
  parts = np.array_split(images, -(-len(images) // 1024))
  squares = sum(np.square(part - mean).sum((0, 1, 2)) for part in parts)
  deviation = np.sqrt(squares / np.prod(images.shape[:3]))
  deviation = np.where(deviation > 0, deviation, 1.0)
  return mean.astype(np.float32), deviation.astype(np.float32)
