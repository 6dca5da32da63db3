"""Stochastic normalization throughout a network."""

from typing import TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import finetuning, ops

M = TypeVar("M", bound=nnx.Module)


def stochastic_norms(
  model: M, *, probability: float = 0.5, rngs: nnx.Rngs
) -> M:
  """Stochastic normalization (StochNorm) for each batch normalization.

  In training each channel takes the batch's statistics or the moving ones, by
  `kdjax.finetuning.stochnorm`; evaluation is as before. The variables of
  the network, whose paths and shapes stay the same, fit the copy: pretrain the
  one and fine-tune the other.

  Args:
    model: a network, trained or not; it stays as it is.
    probability: p in [0, 1] of the batch's statistics.
    rngs: random streams, which pick by the stream "stochnorm". Where
      `training.from_nnx` makes a forward of the copy, its key takes their
      place; devices with other keys pick other channels.

  Returns:
    A copy of the network.

  Raises:
    TypeError: if `model` is no NNX module: a `Model` has no layers.
    ValueError: if the probability is out of range.

  The moving variance takes in the batch's over n - 1, as in PyTorch; that of
  Flax's batch normalization takes the one over n.

  Examples:
    >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    >>> model.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    >>> copy = stochastic_norms(model, rngs=nnx.Rngs(1))
    >>> copy.norm(jnp.array([[8.0] * 4, [10.0] * 4])).shape
    (2, 4)

  References:
    Kou et al., `Stochastic normalization
    <https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html>`_,
    2020.
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f"stochastic_norms: model is a {type(model).__name__}; expected an "
      "nnx.Module."
    )
  ops.check_range("stochastic_norms: probability", probability, 0.0, 1.0)
  model = nnx.clone(model)
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
