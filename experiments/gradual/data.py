"""A source, domains that turn away from it step by step, and a target."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device; no image is in two of the parts.

  Labels of all but the source are for target-only and for the oracle alone.
  """

  source: dict[str, Any]  # labeled images, a little turned
  turned_source: dict[str, Any]  # the same ones, turned as the target's are
  # The images of all domains between, in the order of their angles.
  between: dict[str, Any]
  target: dict[str, Any]  # the same ones, turned as the target's are
  validation: dict[str, Any]  # target images that choose
  test: dict[str, Any]  # target images that choose nothing
  plain_test: dict[str, Any]  # the same ones, as they are


def load_data(config: Any) -> Data:
  """Reads a set, deals its images out once for all seeds, and turns them."""
  generator = np.random.default_rng(config.seed)
  between = config.blocks * config.block_examples
  sizes = config.source_examples, between, config.validation_examples
  train, test = (frame_data.read(config, name) for name in ("train", "test"))
  if sum(sizes) > len(train):
    raise ValueError(
      f"source_examples, blocks of block_examples and validation_examples are "
      f"{sum(sizes)} images; expected at most {len(train)}, those of "
      f"{config.dataset}."
    )
  order = generator.permutation(len(train))[: sum(sizes)]
  arrays = kdata.as_arrays(kdata.subset(train, order))
  ends = np.cumsum(sizes)
  source, middle, validation = (
    {k: x[end - size : end] for k, x in arrays.items()}
    for size, end in zip(sizes, ends, strict=True)
  )
  test = kdata.as_arrays(test)
  start, end = config.spread, config.degrees - config.spread

  def turned(part: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    angles = generator.uniform(low, high, len(part["label"]))
    return turn(part, angles)

  steps = np.arange(between) / between
  return Data(
    turned(source, 0, start),
    turned(source, end, config.degrees),
    turn(middle, start + (config.degrees - start) * steps),
    turned(middle, end, config.degrees),
    turned(validation, end, config.degrees),
    turned(test, end, config.degrees),
    jax.device_put(test),
  )


def turn(part: dict[str, Any], degrees: np.ndarray) -> dict[str, Any]:
  """Turns each image by its own angle, a thousand of them at a time."""
  return {
    "image": _turn(part["image"], jnp.asarray(degrees, jnp.float32)),
    "label": jnp.asarray(part["label"]),
  }


@jax.jit
def _turn(images: Any, degrees: jax.Array) -> jax.Array:
  return jax.lax.map(
    lambda pair: kdata.rotate(pair[0][None], pair[1])[0],
    (images, degrees),
    batch_size=1000,
  )
