"""DomainBed's network for MNIST, and the configured network."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax import nets, training
from kdjax.nets import convolve


class MnistCnn(nnx.Module):
  """DomainBed's MNIST_CNN: four convolutions of 3x3, the second of stride 2.

  After each a ReLU, then a group normalization; the mean over positions is
  the embedding. The first has half the channels of the others, 64 there.
  """

  def __init__(
    self, outputs: int, *, channels: int, width: int, rngs: nnx.Rngs
  ):
    widths = (channels, width, *(3 * [2 * width]))
    options = {"padding": 1, "conv_general_dilated": convolve, "rngs": rngs}
    self.convolutions = nnx.List(
      nnx.Conv(*sizes, (3, 3), strides=2 if i == 1 else 1, **options)
      for i, sizes in enumerate(itertools.pairwise(widths))
    )
    self.norms = nnx.List(
      nnx.GroupNorm(width, num_groups=8, epsilon=1e-5, rngs=rngs)
      for width in widths[1:]
    )
    self.head = nnx.Linear(widths[-1], outputs, rngs=rngs)

  def __call__(self, images: jax.Array) -> nets.Outputs:
    """The logits and the embedding of images."""
    maps = images
    for convolution, norm in zip(self.convolutions, self.norms, strict=True):
      maps = norm(nnx.relu(convolution(maps)))
    embedding = jnp.mean(maps, (1, 2))
    assert self.head.bias is not None
    classifier = self.head.kernel[...], self.head.bias[...]
    return nets.Outputs(
      self.head(embedding), {}, embedding, classifier=classifier
    )


class Same(nnx.Module):
  """A layer that returns its inputs, to mix the styles of images behind it."""

  def __call__(self, images: jax.Array) -> jax.Array:
    """The images themselves."""
    return images


class Mlp(nets.MLP):
  """An MLP with its images as its first maps."""

  def __init__(self, *args: Any, **options: Any):
    super().__init__(*args, **options)
    self.images = Same()

  def __call__(self, images: jax.Array) -> nets.Outputs:
    """The outputs for images."""
    return super().__call__(self.images(images))


# The layer that returns the first maps.
STEMS = {"cnn": "norms/0", "mlp": "images"}


def make_network(
  config: Any,
  shape: tuple[int, int, int],
  outputs: int,
  key: Any = None,
) -> training.Network:
  """The configured network, if there is a key with the weights of this key."""
  kind, options = Mlp, {"input_shape": shape, "hidden": config.hidden}
  if config.network == "cnn":
    kind, options = MnistCnn, {"channels": shape[-1], "width": config.channels}

  def build(rngs: nnx.Rngs) -> Any:
    own = rngs if key is None else nnx.Rngs(key)
    return kind(outputs, rngs=own, **options)

  return training.Network.of(build)


def make_generator(
  config: Any, shape: tuple[int, int, int]
) -> training.Network:
  """A network that answers to an image with as many numbers as it has."""
  width = 2 * config.channels if config.network == "cnn" else config.hidden[-1]
  sizes: Any = {"input_shape": shape, "hidden": (width,)}
  return training.Network.of(
    lambda rngs: nets.MLP(math.prod(shape), rngs=rngs, **sizes)
  )
