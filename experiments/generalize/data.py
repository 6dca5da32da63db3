"""The domains of Colored MNIST and Rotated MNIST, as DomainBed makes them.

Every image is in one domain only. Any set of digits will do in MNIST's place.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata

# How often the color is not the one that its label has in the first domain.
COLOURS = {"+90 %": 0.1, "+80 %": 0.2, "-90 %": 0.9}
LABEL_NOISE = 0.25  # so that a color may tell more than the shape can
ANGLES = {"0°": 0, "15°": 15, "30°": 30, "45°": 45, "60°": 60, "75°": 75}
DOMAINS = {"colored": tuple(COLOURS), "rotated": tuple(ANGLES)}
HOLDOUT = 0.2  # the part of each domain that trains nobody


class Data(NamedTuple):
  """All images, uint8 `[domains, n, height, width, channels]`, and labels."""

  image: jax.Array
  label: jax.Array  # int32 [domains, n]
  classes: int

  @property
  def shape(self) -> tuple[int, int, int]:
    """That of an image."""
    height, width, channels = self.image.shape[2:]
    return height, width, channels


class Split(NamedTuple):
  """A seed's division of each domain; indices of images `[domains, ...]`."""

  inside: jax.Array  # to train on
  outside: jax.Array  # to choose by
  tested: jax.Array  # to report, of domains that are held out


def load_data(config: Any) -> Data:
  """Reads both splits, shuffles and deals the images to the domains."""
  splits = [
    kdata.as_arrays(frame_data.read(config, name)) for name in ("train", "test")
  ]
  arrays = {k: np.concatenate([x[k] for x in splits]) for k in splits[0]}
  images, labels = arrays["image"], arrays["label"]
  count, side = len(DOMAINS[config.task]), images.shape[1]
  size = config.image_size or side
  if side % size:
    raise ValueError(
      f"image_size is {size}; expected a divisor of {side}, the images' side."
    )
  order = np.random.default_rng(config.seed).permutation(len(labels))
  order = order[: config.examples or None]
  order = order[: len(order) // count * count]
  dealt = order.reshape(-1, count).T
  images, labels = jnp.asarray(images[dealt]), jnp.asarray(labels[dealt])
  key = jax.random.key(config.seed)
  if config.task == "colored":
    images, labels = color(key, images, labels)
  else:
    turned = map(kdata.rotate, images, map(float, ANGLES.values()))
    images = jnp.stack(list(turned))
  step = side // size
  classes = int(labels.max()) + 1
  return Data(images[:, :, ::step, ::step], labels, classes)


def color(
  key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Colors digits by their label, which is whether they are below five."""
  noise_key, colour_key = jax.random.split(key)
  wrong = jax.random.bernoulli(noise_key, LABEL_NOISE, labels.shape)
  labels = (labels < 5) ^ wrong
  rates = jnp.array(list(COLOURS.values()))[:, None]
  colour = labels ^ jax.random.bernoulli(colour_key, rates, labels.shape)
  channels = jnp.stack([~colour, colour], -1)[:, :, None, None]
  return images * channels.astype(images.dtype), labels.astype(jnp.int32)


def split_domains(key: jax.Array, data: Data) -> Split:
  """Divides each domain at random."""
  domains, size = data.label.shape
  keys = jax.random.split(key, domains)
  order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
  outside = int(HOLDOUT * size)
  inside = order[:, outside:]
  # Images inside a domain that is held out train nobody either.
  return Split(inside, order[:, :outside], inside)


def split_for_target(split: Split) -> Split:
  """The division for target-only: half of the held-out images are tested."""
  half = split.outside.shape[-1] // 2
  chosen, tested = split.outside[..., :half], split.outside[..., half:]
  return Split(split.inside, chosen, tested)


def take(
  data: Data, domains: jax.Array, index: jax.Array
) -> dict[str, jax.Array]:
  """Images in [0, 1] and labels of domains `[d]` at indices `[d, m]`."""
  images = data.image[domains[:, None], index].astype(jnp.float32) / 255
  return {"image": images, "label": data.label[domains[:, None], index]}
