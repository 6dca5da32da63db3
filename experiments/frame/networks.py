"""Networks of images as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax import data, nets, training


def make_network(
  name: str,
  images: Any,
  classes: int,
  *,
  statistics: tuple[Any, Any] | None = None,
  change: Callable[[Any, nnx.Rngs], nnx.Module] | None = None,
  hidden: Sequence[int] | None = None,
  **options: Any,
) -> training.Network:
  """A network of `kdjax.nets` that normalizes images `[n, ...]` like these.

  Their statistics are the mean and the deviation of each channel. `change`
  makes another module of the network's. An mlp alone has hidden layers.
  """
  if name == "mlp" and hidden is not None:
    options["hidden"] = hidden
  if statistics is None:
    statistics = data.channel_statistics(np.asarray(images))
  mean, std = map(jnp.asarray, statistics)

  def build(rngs: nnx.Rngs) -> nnx.Module:
    shape = images.shape[1:]
    module = nets.create(
      name, input_shape=shape, num_classes=classes, rngs=rngs, **options
    )
    return change(module, rngs) if change else module

  return training.Network.of(
    build, preprocess=lambda images: data.normalize(images, mean, std)
  )
