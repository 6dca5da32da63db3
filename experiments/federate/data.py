"""Labeled images that are dealt out to clients, public and test images."""

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata

ATTEMPTS = 100  # to deal out the images so that every client has enough


class Shards(NamedTuple):
  """Which private images each client has, padded to one size."""

  index: np.ndarray  # `[seeds, clients, size]`
  mask: np.ndarray  # the same, False for padding

  @property
  def sizes(self) -> np.ndarray:
    """`[seeds, clients]`."""
    return self.mask.sum(-1)


class Data(NamedTuple):
  """Images and labels on the device."""

  private: dict[str, Any]  # of the clients
  public: dict[str, Any]  # images without labels
  test: dict[str, Any]
  shards: dict[float, Shards]  # by the concentration
  whole: Shards  # one client that has all private images
  classes: int


def load_data(config: Any) -> Data:
  """Reads the images and deals them out, for each seed anew."""
  train, test = (
    kdata.as_arrays(frame_data.read(config, split, limit=config.examples))
    for split in ("train", "test")
  )
  count, public = len(train["label"]), config.public_examples
  if count - public < config.clients * config.min_examples:
    raise ValueError(
      f"public_examples is {public}, which leaves {count - public} of {count} "
      f"images; expected at least {config.clients * config.min_examples} for "
      f"{config.clients} clients of min_examples, {config.min_examples}."
    )
  order = np.random.default_rng(config.seed).permutation(count)
  private = {k: x[order[public:]] for k, x in train.items()}
  dealt = {
    concentration: [
      deal(
        private["label"],
        config.clients,
        concentration,
        minimum=config.min_examples,
        seed=config.seed + i,
      )
      for i in range(config.seeds)
    ]
    for concentration in config.concentrations
  }
  whole = [[np.arange(count - public)]] * config.seeds
  # One size of all concentrations, so that they share their programs.
  every = [x for shards in dealt.values() for seed in shards for x in seed]
  size = max(map(len, every))
  shards = {k: pad(x, size, config.batch_size) for k, x in dealt.items()}
  return Data(
    jax.device_put(private),
    jax.device_put({"image": train["image"][order[:public]]}),
    jax.device_put(test),
    shards,
    pad(whole, count - public, config.batch_size),
    int(train["label"].max()) + 1,
  )


def deal(
  labels: np.ndarray,
  clients: int,
  concentration: float,
  *,
  minimum: int,
  seed: int,
) -> list[np.ndarray]:
  """Deals out the images of each class by a Dirichlet distribution.

  Images are dealt again until each client has so many; returns the places of
  the images of each client.
  """
  generator = np.random.default_rng((seed, round(1e6 * concentration)))
  sizes = np.zeros(clients, int)
  for _ in range(ATTEMPTS):
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
      places = generator.permutation(np.flatnonzero(labels == label))
      shares = generator.dirichlet(np.full(clients, concentration))
      ends = np.round(np.cumsum(shares)[:-1] * len(places)).astype(int)
      for part, own in zip(parts, np.split(places, ends), strict=True):
        part.append(own)
    dealt = [np.concatenate(part) for part in parts]
    sizes = np.array([len(own) for own in dealt])
    if sizes.min() >= minimum:
      return dealt
  client = int(sizes.argmin())
  raise ValueError(
    f"client {client} of seed {seed} has {sizes[client]} of {len(labels)} "
    f"images, dealt out {ATTEMPTS} times at concentration {concentration:g}; "
    f"expected at least min_examples, {minimum}. Give fewer clients, more "
    "images, a larger concentration or smaller min_examples."
  )


def pad(dealt: list[list[np.ndarray]], size: int, unit: int) -> Shards:
  """Pads the places of each seed and client to one multiple of a batch."""
  size = -(-size // unit) * unit
  shape = len(dealt), len(dealt[0]), size
  index, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
  for i, clients in enumerate(dealt):
    for j, places in enumerate(clients):
      index[i, j, : len(places)] = places
      mask[i, j, : len(places)] = True
  return Shards(index, mask)
