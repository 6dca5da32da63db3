"""Pairs of modalities of digits: halves, sounds, captions."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.cross_modal import captions, sounds
from experiments.frame import data as frame_data
from kdjax import data as kdata


class Pairs(NamedTuple):
  """A task of two modalities on the device.

  Batches have the entries `a`, that of the teacher, and `b`, that of the
  student; captions have `image` and `text`.
  """

  train: dict[str, Any]
  test: dict[str, Any]
  few: np.ndarray  # `[seeds, few]`, the training pairs that students see


class Images(NamedTuple):
  """The images of all tasks, and the places of few of them."""

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]
  few: np.ndarray


def load_images(config: Any) -> Images:
  """Reads both splits and draws the few pairs of each seed."""
  parts = {
    split: kdata.as_arrays(frame_data.read(config, split))
    for split in ("train", "test")
  }
  labels = parts["train"]["label"]
  if labels.max() != len(sounds.WORDS) - 1:
    raise ValueError(
      f"dataset is {config.dataset!r}, of {labels.max() + 1} classes; expected "
      "images of the ten digits."
    )
  smallest = np.bincount(labels).min()
  if config.examples_per_class > smallest:
    raise ValueError(
      f"examples_per_class is {config.examples_per_class}; expected at most "
      f"{smallest}, the images of the smallest class."
    )
  seeds = range(config.seed, config.seed + config.seeds)
  few = frame_data.draw_few(labels, config.examples_per_class, seeds)
  return Images(**parts, few=few)


def make_halves(config: Any, images: Images) -> Pairs:
  """The left half of an image, and the right half."""

  def halve(part: dict[str, np.ndarray], split: str) -> Any:
    del split
    middle = part["image"].shape[2] // 2
    left, right = part["image"][:, :, :middle], part["image"][:, :, middle:]
    return left, right

  return _paired(images, halve)


def make_spoken(config: Any, images: Images) -> Pairs:
  """An image, and the sound of its digit's name."""

  def say(part: dict[str, np.ndarray], split: str) -> Any:
    labels = part["label"]
    heard = sounds.make_sounds(config.sounds, labels, split, config.seed)
    return part["image"], heard

  return _paired(images, say)


def _paired(images: Images, views: Any) -> Pairs:
  parts = []
  for split in ("train", "test"):
    part = getattr(images, split)
    sources = {
      name: kdata.ArraySource(rows, part["label"])
      for name, rows in zip("ab", views(part, split), strict=True)
    }
    parts.append(kdata.as_arrays(kdata.pair(sources)))
  parts: Any = jax.device_put(parts)
  return Pairs(*parts, few=images.few)


def make_captioned(config: Any, images: Images) -> Pairs:
  """An image, and the words of its caption."""
  del config
  thirds = captions.find_thirds(images.train["image"])
  tokens, parts = captions.all_tokens(), []
  for part in (images.train, images.test):
    numbers = captions.describe(part["image"], part["label"], thirds)
    rows = {"text": tokens[numbers], "caption": numbers.astype(np.int32)}
    parts.append(part | rows)
  parts: Any = jax.device_put(parts)
  return Pairs(*parts, few=images.few)


MAKERS = {
  "halves": make_halves,
  "spoken": make_spoken,
  "captions": make_captioned,
}
