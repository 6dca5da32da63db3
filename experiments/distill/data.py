"""The images of `experiments.distill`, and the few that each student sees."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import commands
from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device, and the places that each seed sees."""

  train: dict[str, Any]
  validation: dict[str, Any]
  test: dict[str, Any]
  transfer: np.ndarray  # [seeds, examples], places in train
  classes: int


def load_data(config: Any) -> Data:
  """Reads the data; images stay uint8 and the networks normalize them."""
  source, test = (frame_data.read(config, name) for name in ("train", "test"))
  parts = *kdata.split(source, config.validation_fraction), test
  train, validation, test = map(kdata.as_arrays, parts)
  classes, missing = int(train["label"].max()) + 1, config.missing_digit
  met = missing in (None, *range(classes))
  expected = f"a class of {config.dataset}, 0 to {classes - 1}"
  commands.expect(config, "missing_digit", met, expected)
  transfer = frame_data.draw_few(
    train["label"],
    config.examples_per_class,
    range(config.seed, config.seed + config.seeds),
    without=missing,
  )
  train, validation, test = jax.device_put((train, validation, test))
  return Data(train, validation, test, transfer, classes)
