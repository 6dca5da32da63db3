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
) -> tuple[training.Forward, Callable[[Any], training.Variables]]:
  """A network of `kdjax.nets` that normalises its images.

  Args:
    name: of `kdjax.nets.create`.
    input_shape: of an image.
    classes: how many.
    mean: of each channel.
    std: of each channel.
    change: makes another module of the network's.
    **options: of the network.

  Returns:
    Its forward, which takes images as they are, and `init(key) -> variables`.
  """

  def build(seed: Any) -> nnx.Module:
    rngs = nnx.Rngs(seed)
    module = nets.create(
      name,
      input_shape=input_shape,
      num_classes=classes,
      rngs=rngs,
      **options,
    )
    return change(module, rngs) if change else module

  # Only its shapes: the arrays are made by init, in one program.
  model = training.from_nnx(nnx.eval_shape(lambda: build(0)))
  mean, std = jnp.asarray(mean), jnp.asarray(std)

  def forward(variables: Any, inputs: Any, *, train: bool, key: Any) -> Any:
    inputs = kdata.normalize(inputs, mean, std)
    return model.forward(variables, inputs, train=train, key=key)

  return forward, lambda key: training.from_nnx(build(key)).variables
