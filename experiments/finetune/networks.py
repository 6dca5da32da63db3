"""The network of `experiments.finetune`, without and with normalization."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.finetune.data import Data
from experiments.frame import networks
from kdjax import data as kdata
from kdjax import training

BODIES = {"mlp": "layers", "convnet": "convolutions"}


class Network(NamedTuple):
  """A network as the experiment knows it.

  Attributes:
    forward: takes uint8 images.
    init: key -> variables.
  """

  forward: training.Forward
  init: Callable[[jax.Array], training.Variables]


class NormalizedLayer(nnx.Module):
  """A layer and the batch normalization of what it puts out."""

  def __init__(self, layer: Any, rngs: nnx.Rngs):
    self.layer = layer
    self.norm = nnx.BatchNorm(layer.out_features, momentum=0.9, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the normalized output of the layer."""
    return self.norm(self.layer(x))


def make_network(config: Any, data: Data, norm: str = "none") -> Network:
  """The network of the flags.

  Args:
    config: the flags.
    data: whose source's mean and standard deviation the images are scaled by.
    norm: of the body's layers: none, batch, or stochastic, whose variables
      are those of batch.

  Returns:
    Its function and where it starts.
  """
  images = np.asarray(data.source["image"])
  mean, std = kdata.channel_statistics(images)

  def normalize(module: Any, rngs: nnx.Rngs) -> nnx.Module:
    layers = getattr(module, BODIES[config.network])
    for i, layer in enumerate(layers):
      layers[i] = NormalizedLayer(layer, rngs)
    if norm == "stochastic":
      return training.stochastic_norms(module, rngs=rngs)
    return module

  options = {"hidden": config.hidden} if config.network == "mlp" else {}
  return Network(
    *networks.make_network(
      config.network,
      input_shape=images.shape[1:],
      classes=data.classes,
      mean=mean,
      std=std,
      change=None if norm == "none" else normalize,
      **options,
    )
  )
