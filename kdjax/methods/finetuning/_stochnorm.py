"""Stochastic normalization (StochNorm) throughout a network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import finetuning, ops
from kdjax.methods._changed_network import changed
from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods.finetuning._row_kinds import trained


def _stochnorm(*, probability: float = 0.5) -> Method:
  """Each batch normalization becomes stochastic, and keeps its variables.

  In training each channel takes the batch's statistics or the moving ones, by
  `kdjax.finetuning.stochnorm`; evaluation is as before. The moving variance
  takes in the batch's over n - 1, as in PyTorch; that of Flax's batch
  normalization takes the one over n. Devices pick channels of their own.

  Args:
    probability: p in [0, 1] of the batch's statistics.
  """
  ops.check_range("stochnorm: probability", probability, 0.0, 1.0)

  def network(student: Any) -> Any:
    return changed("stochnorm", student, lambda x: _converted(x, probability))

  return Method(network=network)


def _converted(model: nnx.Module, probability: float) -> nnx.Module:
  """A copy of a network, whose batch normalizations are stochastic."""
  model = nnx.clone(model)
  rngs = nnx.Rngs(0)  # A forward of the copy puts its key in their place.
  for _, module in list(nnx.iter_modules(model)):
    for name, child in list(vars(module).items()):
      if isinstance(child, nnx.BatchNorm):
        setattr(module, name, _StochasticNorm(child, probability, rngs))
  return model


class _StochasticNorm(nnx.Module):
  """A batch normalization, with its very variables, made stochastic."""

  def __init__(self, norm: nnx.BatchNorm, probability: float, rngs: nnx.Rngs):
    self.scale, self.bias = nnx.data(norm.scale), nnx.data(norm.bias)
    self.mean, self.var = norm.mean, norm.var
    self.use_running_average = norm.use_running_average  # train(), eval()
    self.momentum = 1 - norm.momentum
    self.epsilon = norm.epsilon
    self.axis_name = norm.axis_name
    self.probability = probability
    self.stream = rngs["stochnorm"].fork()

  def __call__(self, x: Array) -> Array:
    scale, bias = (
      None if part is None else jnp.asarray(part[...])
      for part in (self.scale, self.bias)
    )
    result = finetuning.stochnorm(
      None if self.use_running_average else self.stream(),
      x,
      self.mean[...],
      self.var[...],
      scale,
      bias,
      probability=self.probability,
      momentum=self.momentum,
      epsilon=self.epsilon,
      axis_name=self.axis_name,
    )
    if not self.use_running_average:
      self.mean[...] = result.mean
      self.var[...] = result.variance
    return result.outputs


ROWS = {
  "stochnorm": trained(
    "StochNorm",
    "batch normalization takes moving statistics at random",
    _stochnorm,
    tuned="probability",
    search=Search(0.5),
    source="paper",
  ),
}
