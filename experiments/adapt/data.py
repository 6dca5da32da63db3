"""Two domains: reading, dividing, shifting, weighing and mapping images."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data as kdata
from kdjax import transforms


class Data(NamedTuple):
  """Images and labels on the device, those of the source first.

  The target's training labels are there for target_only alone.
  """

  train: dict[str, Any]
  validation: dict[str, Any]
  test: dict[str, Any]  # of the target
  train_sizes: tuple[int, int]
  validation_sizes: tuple[int, int]


def load_data(config: Any) -> Data:
  """Reads both domains, of one image size, and shifts the target."""

  def read(name: str, split: str) -> kdata.Source:
    source = kdata.load(name, split, data_dir=config.data_dir)
    count = min(len(source), config.examples)
    arrays = kdata.as_arrays(kdata.subset(source, range(count)))
    return kdata.ArraySource(arrays["image"], arrays["label"])

  def divide(source: kdata.Source) -> list[dict[str, Any]]:
    parts = kdata.split(source, config.validation_fraction, seed=config.seed)
    return [jax.device_put(kdata.as_arrays(part)) for part in parts]

  if config.source == config.target:
    domains = kdata.split(read(config.source, "train"), 0.5, seed=config.seed)
  else:
    domains = read(config.source, "train"), read(config.target, "train")
  sources, targets = map(divide, domains)
  targets.append(jax.device_put(kdata.as_arrays(read(config.target, "test"))))
  size = targets[0]["image"].shape[1:3]
  if config.image_size:
    size = config.image_size, config.image_size
  for part in (*sources, *targets):
    own = part["image"].shape[1:3]
    if own != size:
      # The frame around the digits of a larger set.
      crop = config.crop if own > size else 0
      part["image"] = kdata.resize(part["image"], size, crop=crop)
  for i, part in enumerate(targets):
    key = jax.random.fold_in(jax.random.key(config.seed), i)
    part["image"] = shift_images(config, key, part["image"])
  pairs = list(zip(sources, targets[:2], strict=True))
  train, validation = (
    {k: jnp.concatenate([a[k], b[k]]) for k in a} for a, b in pairs
  )
  train_sizes, validation_sizes = (
    (len(a["label"]), len(b["label"])) for a, b in pairs
  )
  return Data(train, validation, targets[2], train_sizes, validation_sizes)


def halves(tree: Any, size: int) -> list[Any]:
  """The first rows, of the source, and the others, of the target."""
  parts = slice(size), slice(size, None)
  return [jax.tree.map(operator.itemgetter(part), tree) for part in parts]


def shift_images(config: Any, key: jax.Array, images: jax.Array):
  """Applies the configured shift."""
  match config.shift:
    case "rotate":
      return kdata.rotate(images, config.degrees)
    case "invert":
      return kdata.invert(images)
    case "blend_noise":
      return kdata.blend_noise(key, images, strength=config.strength)
  return images


def pixels(images: Any) -> jax.Array:
  """Images as rows, from 0 to 1."""
  return jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 255


def weigh(data: Data, weigh: Callable[..., Any]) -> Data:
  """Weighs the source's training images, by the pixels of both domains.

  Args:
    data: of both domains.
    weigh: `(source_rows, target_rows) -> weights`.

  Returns:
    The data, with the weight of each training image; 1 for the target's.
  """
  rows = halves(pixels(data.train["image"]), data.train_sizes[0])
  weights = jax.jit(weigh)(*rows)
  ones = jnp.ones(data.train_sizes[1], weights.dtype)
  train = data.train | {"weight": jnp.concatenate([weights, ones])}
  return data._replace(train=train)


def transform(data: Data, fit: Callable[..., Any]) -> Data:
  """Maps the pixels of both domains into a common space.

  Args:
    data: of both domains.
    fit: `(source_rows, target_rows) -> map`, on training images.

  Returns:
    The data, images of one row and column and of as many channels as the
    common space has dimensions.
  """
  rows = halves(pixels(data.train["image"]), data.train_sizes[0])
  fitted = jax.jit(fit)(*rows)

  @jax.jit
  def apply(source: jax.Array, target: jax.Array) -> jax.Array:
    mapped = fitted.apply(source), fitted.apply(target, domain="target")
    return jnp.concatenate(mapped)[:, None, None]

  def change(part: dict[str, Any], size: int) -> dict[str, Any]:
    rows = halves(pixels(part["image"]), size)
    return part | {"image": apply(*rows)}

  return data._replace(
    train=change(data.train, data.train_sizes[0]),
    validation=change(data.validation, data.validation_sizes[0]),
    test=change(data.test, 0),
  )


def transform_jointly(data: Data) -> Data:
  """Maps the pixels of both domains by JDA, which needs the source's labels.

  Args:
    data: of both domains.

  Returns:
    As :func:`transform`.
  """
  fit = functools.partial(
    transforms.joint_distribution_adaptation,
    source_labels=data.train["label"][: data.train_sizes[0]],
    num_classes=int(np.max(data.train["label"])) + 1,
    num_components=30,
  )
  return transform(data, fit)
