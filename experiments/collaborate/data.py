"""Training images of which a seed has few labels, and test images."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device."""

  train: dict[str, Any]
  test: dict[str, Any]
  few: np.ndarray  # `[seeds, few]`, the training images whose labels count
  classes: int

  def spec(self) -> dict[str, Any]:
    """The shapes of a batch."""
    return frame_data.batch_spec(self.train)


def load_data(config: Any) -> Data:
  """Reads both splits and draws the labels."""
  train, test = (
    kdata.as_arrays(frame_data.read(config, split))
    for split in ("train", "test")
  )
  labels = train["label"]
  smallest = np.bincount(labels).min()
  if config.examples_per_class > smallest:
    raise ValueError(
      f"examples_per_class is {config.examples_per_class}; expected at most "
      f"{smallest}, the images of the smallest class."
    )
  seeds = range(config.seed, config.seed + config.seeds)
  few = frame_data.draw_few(labels, config.examples_per_class, seeds)
  parts: Any = jax.device_put((train, test))
  return Data(*parts, few=few, classes=int(labels.max()) + 1)
