"""Labelled images: reading, drawing a few of each class, shapes of batches."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from kdjax import data


def read(
  config: Any, split: str, *, name: str = "", limit: int = 0
) -> data.Source:
  """Reads a split of `name` or of the flag's data set, `limit` images of it."""
  name = name or config.dataset
  source = data.load(name, split, data_dir=config.data_dir)
  if limit:
    source = data.subset(source, range(min(limit, len(source))))
  return source


def draw_few(
  labels: np.ndarray,
  count: int,
  seeds: Iterable[int],
  without: Any = None,
  by_class: bool = False,
) -> np.ndarray:
  """Draws images of each class for each seed, or all: places `[seeds, few]`."""
  # A source of places instead of images, to draw from as from any other.
  places = np.arange(len(labels)).reshape(-1, 1, 1, 1)
  source: data.Source = data.ArraySource(places, labels)
  if without is not None:
    source = data.without_classes(source, [without])
  drawn = [
    data.few_per_class(source, count, seed=seed) if count else source
    for seed in seeds
  ]
  few = np.stack([data.as_arrays(part)["image"].ravel() for part in drawn])
  order = np.argsort(labels[few], 1, kind="stable")
  return np.take_along_axis(few, order, 1) if by_class else few


def batch_spec(part: dict[str, Any], size: int = 1) -> dict[str, Any]:
  """The shapes of a batch: those of a part's arrays, with places and a mask."""

  def spec(shape: Any, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *shape), dtype)

  arrays = jax.tree.map(lambda x: spec(x.shape[1:], x.dtype), dict(part))
  return arrays | {"index": spec((), np.int32), "mask": spec((), np.bool_)}
