"""Two domains: reading, dividing, shifting, weighing and mapping images."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device."""

  # Of each domain; the target's labels are there for target_only alone.
  train: dict[str, dict[str, Any]]
  # Of both domains in one, those of the source first.
  validation: dict[str, Any]
  test: dict[str, Any]  # of the target
  validation_sizes: tuple[int, ...]  # how many are of each domain

  @property
  def train_sizes(self) -> tuple[int, ...]:
    """How many training images each domain has."""
    return tuple(len(part["image"]) for part in self.train.values())

  @property
  def classes(self) -> int:
    """How many classes there are."""
    labels = [part["label"] for part in self.train.values()]
    return int(max(map(np.max, labels))) + 1


def load_data(config: Any) -> Data:
  """Reads both domains, of one image size, and shifts the target."""
  names = config.source, config.target

  def divide(source: kdata.Source) -> list[dict[str, Any]]:
    parts = kdata.split(source, config.validation_fraction, seed=config.seed)
    return [jax.device_put(kdata.as_arrays(part)) for part in parts]

  def read(name: str, split: str = "train") -> kdata.Source:
    return frame_data.read(config, split, name=name, limit=config.examples)

  domains = [read(name) for name in dict.fromkeys(names)]
  if len(domains) == 1:
    domains = kdata.split(domains[0], 0.5, seed=config.seed)
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
  train, held_out = zip(sources, targets[:2], strict=True)
  validation = jax.tree.map(lambda *x: jnp.concatenate(x), *held_out)
  sizes = tuple(len(part["label"]) for part in held_out)
  train = dict(zip(("source", "target"), train, strict=True))
  return Data(train, validation, targets[2], sizes)


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


def pixels(part: dict[str, Any]) -> jax.Array:
  """Images as rows, from 0 to 1."""
  images = part["image"]
  return jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 255


def _as_rows(data: Data) -> dict[str, dict[str, Any]]:
  """All images as rows, as `Method.data` reads them: labels of the source."""
  source, target = data.train["source"], data.train["target"]
  held_out = halves(pixels(data.validation), data.validation_sizes[0])
  return {
    "source": {"image": pixels(source), "label": source["label"]},
    "target": {"image": pixels(target)},
    "validation/source": {"image": held_out[0]},
    "validation/target": {"image": held_out[1]},
    "validation/test": {"image": pixels(data.test)},
  }


def _changed(data: Data, change: Callable[..., Any]) -> dict[str, Any]:
  """The rows as a method's `data` changes them, fitted on training images."""
  return jax.jit(lambda rows: change(rows, None))(_as_rows(data))


def weigh(data: Data, change: Callable[..., Any]) -> Data:
  """Weighs the source's images, by `Method.data`."""
  weights = _changed(data, change)["source"]["weight"]
  source = data.train["source"] | {"weight": weights}
  return data._replace(train=data.train | {"source": source})


def transform(data: Data, change: Callable[..., Any]) -> Data:
  """Maps both domains into one space, whose dimensions are channels."""
  changed = _changed(data, change)

  def place(part: dict[str, Any], *names: str) -> dict[str, Any]:
    rows = jnp.concatenate([changed[name]["image"] for name in names])
    return part | {"image": rows[:, None, None]}

  return data._replace(
    train={k: place(part | changed[k], k) for k, part in data.train.items()},
    validation=place(data.validation, "validation/source", "validation/target"),
    test=place(data.test, "validation/test"),
  )
