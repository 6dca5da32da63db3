"""Images to train on, to choose chains by, and to look at in the end."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device; no image is in two of the parts."""

  train: dict[str, Any]
  validation: dict[str, Any]  # chooses chains
  test: dict[str, Any]  # chooses nothing
  classes: int

  def spec(self) -> dict[str, Any]:
    """The shapes of a batch."""
    return frame_data.batch_spec(self.train)


def load_data(config: Any) -> Data:
  """Reads both splits; deals validation images out once for all seeds."""
  train, test = (
    kdata.as_arrays(frame_data.read(config, split))
    for split in ("train", "test")
  )
  labels, count = train["label"], config.validation_examples
  if count >= len(labels):
    raise ValueError(
      f"validation_examples is {count}; expected fewer than {len(labels)}, the "
      f"training images of {config.dataset}."
    )
  order = np.random.default_rng(config.seed).permutation(len(labels))
  validation, places = np.split(order, [count])
  few = config.examples_per_class
  smallest = np.bincount(labels[places]).min()
  if few > smallest:
    raise ValueError(
      f"examples_per_class is {few}; expected at most {smallest}, the images "
      "of the smallest class that are no validation images."
    )
  if few:
    drawn = frame_data.draw_few(labels[places], few, [config.seed])
    places = places[drawn[0]]
  parts = [{k: x[i] for k, x in train.items()} for i in (places, validation)]
  put: Any = jax.device_put((*parts, test))
  return Data(*put, classes=int(labels.max()) + 1)
