"""The images of `experiments.compare`, and the views that methods ask for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data as kdata

VIEWS = ("strong", "rotated_1", "rotated_2", "rotated_3", "partner")


class Data(NamedTuple):
  """Images and labels on the device.

  Each part is `{"image", "label"}`. Where students see a few images, those of
  each seed are its own, and `students` has a leading axis of seeds.
  """

  train: dict[str, Any]  # what teachers see
  students: dict[str, Any]
  validation: dict[str, Any]  # may be empty
  test: dict[str, Any]
  classes: int

  @property
  def seeds_axis(self) -> int | None:
    """The axis of seeds in `students`, if there is one."""
    return 0 if self.students["label"].ndim == 2 else None

  @property
  def examples(self) -> int:
    """How many images a student sees."""
    return self.students["label"].shape[-1]

  def held_out(self, part: str) -> dict[str, Any]:
    """The validation or the test images."""
    return getattr(self, part)


def load_data(config: Any) -> Data:
  """Reads the data; images stay uint8 and the networks normalise them."""
  source = kdata.load(config.dataset, "train", data_dir=config.data_dir)
  train, validation = kdata.split(source, config.validation_fraction)
  seen = [train]
  if config.examples_per_class:
    seen = [
      kdata.few_per_class(
        train, config.examples_per_class, seed=config.seed + i
      )
      for i in range(config.seeds)
    ]
  held = kdata.load(config.dataset, "test", data_dir=config.data_dir)
  train, test = map(kdata.as_arrays, (train, held))
  validation = (
    kdata.as_arrays(validation)
    if len(validation)
    else {k: v[:0] for k, v in test.items()}
  )
  students = train
  if config.examples_per_class:
    parts = [kdata.as_arrays(part) for part in seen]
    students = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
  classes = int(train["label"].max()) + 1
  if students is train:
    train = students = jax.device_put(train)
  else:
    train, students = jax.device_put((train, students))
  validation, test = jax.device_put((validation, test))
  return Data(train, students, validation, test, classes)


def make_views(
  names: tuple[str, ...], augment: Callable[..., Any]
) -> dict[str, Any]:
  """Other views of a batch, by name.

  The strong view is shifted by another eighth of its side, turned by up to 15
  degrees, and has a square of half its side blackened: what of RandAugment
  suits digits too.
  """
  unknown = set(names) - set(VIEWS)
  if unknown:
    raise ValueError(f"no view {', '.join(sorted(unknown))} is made here.")

  def strong(key: Any, batch: Any) -> Any:
    shift_key, turn_key, cut_key = jax.random.split(key, 3)
    images = augment(key, batch["image"])
    side = images.shape[1]
    images = kdata.random_crop(shift_key, images, padding=side // 8)
    degrees = jax.random.uniform(
      turn_key, (len(images),), minval=-15.0, maxval=15.0
    )
    images = kdata.rotate(images, degrees)
    return kdata.cutout(cut_key, images, size=side // 2)

  def turned(times: int) -> Callable[..., Any]:
    def view(key: Any, batch: Any) -> Any:
      return jnp.rot90(augment(key, batch["image"]), times, axes=(1, 2))

    return view

  makers = {
    "strong": strong,
    **{f"rotated_{times}": turned(times) for times in (1, 2, 3)},
    "partner": lambda key, batch: augment(key, batch["partner_image"]),
  }
  return {name: makers[name] for name in names}


def make_pool(data: dict[str, Any], classes: int) -> dict[str, Any]:
  """Sorts the examples by class, so that a partner is drawn by two look-ups."""
  order = jnp.argsort(data["label"], stable=True)
  ordered = data["label"][order]
  first = jnp.searchsorted(ordered, jnp.arange(classes))
  rank = jnp.argsort(order) - first[data["label"]]
  count = jnp.bincount(data["label"], length=classes)
  return {
    "image": data["image"],
    "order": order,
    "first": first,
    "count": count,
    "rank": rank,
  }


def with_partners(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
  """Gives a batch another image of each example's class.

  Args:
    loss_fn: `(params, state, frozen, batch, key) -> loss, (state, metrics)`,
      whose `frozen["pool"]` is of :func:`make_pool`.

  Returns:
    A function of the same arguments.
  """

  def paired(params: Any, state: Any, frozen: Any, batch: Any, key: Any):
    pool, label = frozen["pool"], batch["label"]
    count = pool["count"][label]
    ahead = jax.random.uniform(jax.random.fold_in(key, 1), label.shape)
    ahead = 1 + jnp.floor(ahead * (count - 1)).astype(jnp.int32)
    place = (pool["rank"][batch["index"]] + ahead) % count
    partner = pool["image"][pool["order"][pool["first"][label] + place]]
    batch = batch | {"partner_image": partner}
    return loss_fn(params, state, frozen, batch, key)

  return paired
