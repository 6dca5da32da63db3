"""Two domains: reading, dividing and shifting their images."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax import data as kdata


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
  for part in sources:
    if part["image"].shape[1:3] != size:
      part["image"] = kdata.resize(part["image"], size, crop=config.crop)
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
