"""The images of `experiments.compare`, and the views that methods ask for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata


class Data(NamedTuple):
  """Images and labels on the device, each part `{"image", "label"}`."""

  train: dict[str, Any]  # of teachers
  # Where they see a few images, those of each seed, `[seeds, ...]`. They are in
  # the order of their classes, so that all seeds have the same labels.
  students: dict[str, Any]
  held_out: dict[str, Any]  # first for validation, then for the test
  validation_size: int
  classes: int

  @property
  def examples(self) -> int:
    """The number of images that a student sees."""
    return self.students["label"].shape[-1]

  @property
  def labels(self) -> np.ndarray:
    """The labels of the images that a student sees."""
    return np.asarray(self.students["label"]).reshape(-1, self.examples)[0]

  @property
  def parts(self) -> dict[str, slice]:
    """The held-out images of each kind; there may be none for validation."""
    size = self.validation_size
    parts = {"validation": slice(size), "test": slice(size, None)}
    return parts if size else {"test": parts["test"]}

  @property
  def test_labels(self) -> np.ndarray:
    """The labels of the test images."""
    return np.asarray(self.held_out["label"][self.parts["test"]])


def load_data(config: Any) -> Data:
  """Reads the data; images stay uint8 and the networks normalize them."""
  source, test = (frame_data.read(config, name) for name in ("train", "test"))
  train, validation = kdata.split(source, config.validation_fraction)

  def read(source: kdata.Source) -> dict[str, Any]:
    arrays = kdata.as_arrays(source)
    if not config.image_size:
      return arrays
    shape = config.image_size, config.image_size
    return arrays | {"image": np.asarray(resize(arrays["image"], shape))}

  held_out = [read(x) for x in (validation, test) if len(x)]
  arrays = read(train)
  parts = {k: np.concatenate([x[k] for x in held_out]) for k in arrays}
  everything, parts = jax.device_put((arrays, parts))
  students = everything
  if config.examples_per_class:
    labels, count = arrays["label"], config.examples_per_class
    seeds = range(config.seed, config.seed + config.seeds)
    few = frame_data.draw_few(labels, count, seeds, by_class=True)
    students = jax.device_put({k: v[few] for k, v in arrays.items()})
  classes = int(arrays["label"].max()) + 1
  return Data(everything, students, parts, len(validation), classes)


def resize(images: Any, shape: tuple[int, int]) -> Any:
  """Resizes many images, some at a time."""
  return jax.lax.map(
    lambda image: kdata.resize(image[None], shape)[0], images, batch_size=100
  )


def resize_held_out(data: Data, shape: tuple[int, int]) -> Data:
  """Brings held-out images to the size of those that a recipe crops."""
  images = data.held_out["image"]
  if images.shape[1:3] == shape:
    return data
  held_out = data.held_out | {"image": resize(images, shape)}
  return data._replace(held_out=held_out)


def make_views(
  names: tuple[str, ...], augment: Callable[..., Any]
) -> dict[str, Any]:
  """Other views of a batch, by name."""

  def strong(key, batch):
    # The parts of RandAugment that suit digits too.
    shift_key, turn_key, cut_key = jax.random.split(key, 3)
    images = augment(key, batch["image"])
    side = images.shape[1]
    images = kdata.random_crop(shift_key, images, padding=side // 8)
    degrees = jax.random.uniform(turn_key, (len(images),), float, -15.0, 15.0)
    images = kdata.rotate(images, degrees)
    return kdata.cutout(cut_key, images, size=side // 2)

  def turned(key, batch, *, times):
    return jnp.rot90(augment(key, batch["image"]), times, axes=(1, 2))

  makers = {
    "strong": strong,
    "partner": lambda key, batch: augment(key, batch["partner_image"]),
    **{f"rotated_{i}": functools.partial(turned, times=i) for i in (1, 2, 3)},
  }
  if unknown := sorted(set(names) - set(makers)):
    raise ValueError(f"no view {', '.join(unknown)} is made here.")
  return {name: makers[name] for name in names}


def make_pool(data: dict[str, Any], classes: int) -> dict[str, Any]:
  """Sorts the examples by class, so that a partner is drawn by two look-ups."""
  order = jnp.argsort(data["label"], stable=True)
  ordered = data["label"][order]
  first = jnp.searchsorted(ordered, jnp.arange(classes))
  rank = jnp.argsort(order) - first[data["label"]]
  count = jnp.bincount(data["label"], length=classes)
  places = {"order": order, "first": first, "count": count, "rank": rank}
  return places | {"image": data["image"]}


def with_partners(loss_fn: Any) -> Any:
  """Gives a batch another image of each example's class, of `make_pool`."""

  def paired(params, state, frozen, batch, key, **options):
    pool, label = frozen["pool"], batch["label"]
    count = pool["count"][label]
    ahead = jax.random.uniform(jax.random.fold_in(key, 1), label.shape)
    ahead = 1 + jnp.floor(ahead * (count - 1)).astype(jnp.int32)
    place = (pool["rank"][batch["index"]] + ahead) % count
    partner = pool["image"][pool["order"][pool["first"][label] + place]]
    batch = batch | {"partner_image": partner}
    return loss_fn(params, state, frozen, batch, key, **options)

  return paired
