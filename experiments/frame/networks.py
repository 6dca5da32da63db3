"""Networks of images as pure functions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from kdjax import data as kdata
from kdjax import nets
from kdjax import training


def make_network(
  name: str,
  *,
  input_shape: Any,
  classes: int,
  mean: Any,
  std: Any,
  change: Callable[[Any, nnx.Rngs], nnx.Module] | None = None,
  **options: Any,
) -> training.Network:
  """A network of `kdjax.nets` that normalizes its images.

  Args:
    name: of `kdjax.nets.create`.
    input_shape: of an image.
    classes: how many.
    mean: of each channel.
    std: of each channel.
    change: makes another module of the network's.
    **options: of the network.

  Returns:
    The network, whose forward takes images as they are.
  """
  mean, std = jnp.asarray(mean), jnp.asarray(std)

  def build(rngs: nnx.Rngs) -> nnx.Module:
    module = nets.create(
      name, input_shape=input_shape, num_classes=classes, rngs=rngs, **options
    )
    return change(module, rngs) if change else module

  return training.Network.of(
    build, preprocess=lambda images: kdata.normalize(images, mean, std)
  )
