"""DomainBed's network for MNIST, and networks as methods want them."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax import nets
from kdjax.nets import convolve


class MnistCnn(nnx.Module):
  """DomainBed's MNIST_CNN: four convolutions of 3x3, the second of stride 2.

  After each a ReLU, then a group normalization; the mean over positions is
  the embedding.

  Args:
    outputs: the number of logits.
    channels: of an image.
    width: channels of the first convolution, half of the others'; 64 there.
    rngs: random streams for the parameters.
  """

  def __init__(
    self, outputs: int, *, channels: int, width: int, rngs: nnx.Rngs
  ):
    widths = (channels, width, *(3 * [2 * width]))
    self.convolutions = nnx.List(
      nnx.Conv(
        a,
        b,
        (3, 3),
        strides=2 if i == 1 else 1,
        padding=1,
        conv_general_dilated=convolve,
        rngs=rngs,
      )
      for i, (a, b) in enumerate(itertools.pairwise(widths))
    )
    self.norms = nnx.List(
      nnx.GroupNorm(b, num_groups=8, epsilon=1e-5, rngs=rngs)
      for b in widths[1:]
    )
    self.head = nnx.Linear(widths[-1], outputs, rngs=rngs)

  def stem(self, images: jax.Array) -> jax.Array:
    """The maps of the first convolution."""
    return self.norms[0](nnx.relu(self.convolutions[0](images)))

  def body(self, maps: jax.Array) -> jax.Array:
    """From these maps to the embedding."""
    for convolution, norm in zip(
      self.convolutions[1:], self.norms[1:], strict=True
    ):
      maps = norm(nnx.relu(convolution(maps)))
    return jnp.mean(maps, (1, 2))


class Network(NamedTuple):
  """A network in its parts; its parameters hold the classifier as `"head"`."""

  init: Callable[[jax.Array], Any]  # key -> params
  stem: Callable[[Any, jax.Array], jax.Array]  # params, images -> maps
  body: Callable[[Any, jax.Array], jax.Array]  # params, maps -> embeddings

  def embed(self, params: Any, images: jax.Array) -> jax.Array:
    """The embeddings of images."""
    return self.body(params, self.stem(params, images))

  def logits(self, params: Any, images: jax.Array) -> jax.Array:
    """The logits of images."""
    return linear(params["head"], self.embed(params, images))


def make_network(
  config: Any, shape: tuple[int, int, int], outputs: int
) -> Network:
  """The configured network; the MLP's first maps are the images themselves."""

  def build(seed: Any) -> Any:
    rngs = nnx.Rngs(seed)
    if config.network == "cnn":
      return MnistCnn(
        outputs, channels=shape[-1], width=config.channels, rngs=rngs
      )
    return nets.MLP(outputs, input_shape=shape, hidden=config.hidden, rngs=rngs)

  graph = nnx.graphdef(nnx.eval_shape(lambda: build(0)))

  def init(key: jax.Array) -> Any:
    return nnx.to_pure_dict(nnx.state(build(key)))

  def module(params: Any) -> Any:
    return nnx.merge(graph, params, copy=True)

  if config.network == "cnn":
    return Network(
      init,
      lambda params, images: module(params).stem(images),
      lambda params, maps: module(params).body(maps),
    )
  return Network(
    init,
    lambda params, images: images,
    lambda params, images: module(params)(images).embedding,
  )


def init_linear(key: jax.Array, inputs: int, outputs: int) -> Any:
  """The parameters of a linear layer."""
  kernel = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
  return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def linear(params: Any, values: jax.Array) -> jax.Array:
  """A linear layer."""
  outputs = values @ params["kernel"]
  return outputs + jnp.expand_dims(params["bias"], range(outputs.ndim - 1))
