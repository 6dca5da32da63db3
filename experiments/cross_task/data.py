"""Images of two halves of the classes, and the labels that a seed has."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Part(NamedTuple):
  """Images of some classes, which are numbered from 0 on."""

  train: dict[str, Any]
  test: dict[str, Any]
  few: np.ndarray  # `[seeds, few]`, the training images whose labels count
  classes: int

  def spec(self) -> dict[str, Any]:
    """The shapes of a batch."""
    return frame_data.batch_spec(self.train)


class Data(NamedTuple):
  """The first half of the classes, the second one, and all."""

  old: Part
  new: Part
  union: Part


def load_data(config: Any) -> Data:
  """Reads both splits and draws the labels."""
  splits = [
    kdata.as_arrays(frame_data.read(config, split))
    for split in ("train", "test")
  ]
  labels = splits[0]["label"]
  classes = int(labels.max()) + 1
  smallest = np.bincount(labels).min()
  if config.examples_per_class > smallest:
    raise ValueError(
      f"examples_per_class is {config.examples_per_class}; expected at most "
      f"{smallest}, the images of the smallest class."
    )
  half = classes // 2
  ranges = (0, half), (half, classes), (0, classes)
  return Data(*(_part(config, splits, *ends) for ends in ranges))


def _part(config: Any, splits: Any, first: int, last: int) -> Part:
  """The images of the classes from `first` up to `last`."""
  arrays = []
  for split in splits:
    own = (split["label"] >= first) & (split["label"] < last)
    label = (split["label"][own] - first).astype(np.int32)
    arrays.append({"image": split["image"][own], "label": label})
  seeds = range(config.seed, config.seed + config.seeds)
  count = config.examples_per_class
  few = frame_data.draw_few(arrays[0]["label"], count, seeds)
  put: Any = jax.device_put(arrays)
  return Part(*put, few=few, classes=last - first)
