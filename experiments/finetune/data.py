"""Half of the classes to pretrain on, and a few labels of the other half."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata

# The pretraining tasks of the other teachers.
TEACHERS = (
  *("inverted", "rotated", "noisy", "random labels"),
  *("two classes", "two others", "untrained"),
)


class Data(NamedTuple):
  """Images and labels on the device; each half's labels start from 0."""

  source: dict[str, Any]  # training images of the first half of the classes
  source_validation: dict[str, Any]  # held out from them
  # Training images of the second half, and images held out from them; all
  # labels but the few are there for the oracle alone.
  target: dict[str, Any]
  target_validation: dict[str, Any]
  test: dict[str, Any]  # test images of the second half
  # `[seeds, labelled]`, the target images whose labels a seed has.
  few: np.ndarray
  # `[1 + folds, labelled]`, which of them are trained on: all, then all but one
  # fold.
  learns: np.ndarray
  classes: int  # how many each half has


def load_data(config: Any) -> Data:
  """Reads and divides the images."""

  def halves(split: str) -> list[kdata.Source]:
    source = frame_data.read(config, split, limit=config.examples)
    arrays = kdata.as_arrays(source)
    images, labels = arrays["image"], arrays["label"]
    half = (int(labels.max()) + 1) // 2
    chosen = [labels // half == i for i in (0, 1)]
    return [
      kdata.ArraySource(images[rows], labels[rows] - i * half)
      for i, rows in enumerate(chosen)
    ]

  parts = [
    part
    for half in halves("train")
    for part in kdata.split(half, config.validation_fraction, seed=config.seed)
  ]
  arrays = [kdata.as_arrays(part) for part in (*parts, halves("test")[1])]
  labels = arrays[2]["label"]
  _, counts = np.unique(labels, return_counts=True)
  if config.shots > counts.min():
    raise ValueError(
      f"shots is {config.shots}; expected at most {counts.min()}, the images "
      "of the smallest class."
    )
  seeds = range(config.seed, config.seed + config.seeds)
  # By class, so that a fold holds out as many of each.
  few = frame_data.draw_few(labels, config.shots, seeds, by_class=True)
  fold = np.tile(np.arange(config.shots), counts.size)
  # One image of a class cannot be held out and trained on.
  folds = min(config.folds, config.shots) if config.shots > 1 else 0
  held_out = fold[None] % max(folds, 1) == np.arange(folds)[:, None]
  learns = np.concatenate([np.ones((1, fold.size), bool), ~held_out])
  parts: Any = jax.device_put(arrays)
  return Data(*parts, few=few, learns=learns, classes=counts.size)


def source_of(
  teacher: str, key: jax.Array, part: dict[str, Any]
) -> dict[str, Any]:
  """A teacher's pretraining images, and a mask of those that count."""
  images, labels = part["image"], part["label"]
  counts = jnp.ones(labels.shape, bool)
  match teacher:
    case "inverted":
      images = kdata.invert(images)
    case "rotated":
      images = kdata.rotate(images, 90.0)
    case "noisy":
      images = kdata.blend_noise(key, images, strength=0.7)
    case "random labels":
      labels = jax.random.permutation(key, labels)
    case "two classes":
      counts = labels < 2
    case "two others":
      counts = (labels >= 2) & (labels < 4)
  return {"image": images, "label": labels, "counts": counts}
