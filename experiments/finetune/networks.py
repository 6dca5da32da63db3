"""The network of `experiments.finetune`, without and with normalization."""

from typing import Any

import jax
from flax import nnx

from experiments.finetune.data import Data
from experiments.frame import networks
from kdjax import methods as kmethods
from kdjax import training

BODIES = {"mlp": "layers", "convnet": "convolutions"}


class NormalizedLayer(nnx.Module):
  """A layer and the batch normalization of its outputs."""

  def __init__(self, layer: Any, rngs: nnx.Rngs):
    self.layer = layer
    self.norm = nnx.BatchNorm(layer.out_features, momentum=0.9, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the normalized output of the layer."""
    return self.norm(self.layer(x))


def make_network(
  config: Any, data: Data, norm: str = "none"
) -> training.Network:
  """The network of the flags; its norm is none, batch or stochastic."""

  def normalize(module: Any, rngs: nnx.Rngs) -> nnx.Module:
    layers = getattr(module, BODIES[config.network])
    for i, layer in enumerate(layers):
      layers[i] = NormalizedLayer(layer, rngs)
    return module

  network = networks.make_network(
    config.network,
    data.source["image"],
    data.classes,
    change=None if norm == "none" else normalize,
    hidden=config.hidden,
  )
  if norm == "stochastic":
    change = kmethods.create("stochnorm").network
    assert change is not None
    return change(network)
  return network
