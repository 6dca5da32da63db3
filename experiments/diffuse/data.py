"""Images of unit deviation, their classes, and real ones to compare with."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Rows of pixels and labels on the device."""

  train: dict[str, Any]
  test: dict[str, Any]
  classes: int


def load_data(config: Any) -> Data:
  """Reads both splits; all pixels have mean 0 and deviation 1 together."""
  train, test = (
    kdata.as_arrays(frame_data.read(config, split))
    for split in ("train", "test")
  )
  images = train["image"].astype(np.float32)
  mean, std = images.mean(), images.std()

  def rows(part: dict[str, Any]) -> dict[str, Any]:
    pixels = (part["image"].astype(np.float32) - mean) / std
    return {"image": pixels.reshape(len(pixels), -1), "label": part["label"]}

  put: Any = jax.device_put((rows(train), rows(test)))
  return Data(*put, classes=int(train["label"].max()) + 1)
