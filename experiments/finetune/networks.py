"""The network of `experiments.finetune`, without and with normalization."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.finetune.data import Data
from kdjax import data as kdata
from kdjax import nets
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
  """The network of the flags."""
  images = np.asarray(data.source["image"])
  mean, std = map(jnp.asarray, kdata.channel_statistics(images))
  options = {"hidden": config.hidden} if config.network == "mlp" else {}

  def build(rngs: nnx.Rngs) -> nnx.Module:
    module: Any = nets.create(
      config.network,
      input_shape=images.shape[1:],
      num_classes=data.classes,
      rngs=rngs,
      **options,
    )
    if norm == "none":
      return module
    layers = getattr(module, BODIES[config.network])
    for i, layer in enumerate(layers):
      layers[i] = NormalizedLayer(layer, rngs)
    if norm == "stochastic":
      return training.stochastic_norms(module, rngs=rngs)
    return module

  return training.Network.of(
    build, preprocess=lambda images: kdata.normalize(images, mean, std)
  )
