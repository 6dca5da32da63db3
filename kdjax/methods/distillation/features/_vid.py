"""Variational information distillation (VID)."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import select_stages
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.nets import layers


def _vid(
  *,
  channels: int | None = None,
  init_variance: float = 5.0,
  eps: float = 1e-5,
) -> Objective:
  """By `kdjax.distillation.vid_loss`, summed over the stages without the stem.

  The mean comes from the student's map by three 1x1 convolutions without bias
  and ReLU between them, over `channels` or the teacher's; the variance
  of channel c is softplus(rho_c) + eps, and rho is trained. Of maps of unequal
  size the larger is averaged to the smaller.
  """
  if not init_variance > eps:
    raise ValueError(
      f"vid: init_variance is {init_variance}; expected it above eps = {eps}."
    )
  rho = math.log(math.expm1(init_variance - eps))  # softplus gives it back

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    stages = zip(*jax.eval_shape(select_stages, student, teacher), strict=True)
    return nnx.List(
      [
        _Gaussian(ours.shape[-1], channels, theirs.shape[-1], rho, rngs)
        for ours, theirs in stages
      ]
    )

  def loss(heads: Any, student: nets.Outputs, teacher: nets.Outputs) -> Any:
    total: Any = 0.0
    stages = zip(heads, *select_stages(student, teacher), strict=True)
    for head, *maps in stages:
      ours, theirs = ops.pool_to_smaller(*maps)
      variance = nnx.softplus(head.rho[...]) + eps
      total += distillation.vid_loss(head(ours), variance, theirs)
    return total

  return modular(build, loss)


class _Gaussian(nnx.Module):
  """The mean of a teacher's map, and the parameter of its variance."""

  def __init__(
    self,
    inputs: int,
    channels: int | None,
    outputs: int,
    rho: float,
    rngs: nnx.Rngs,
  ):
    widths = inputs, channels or outputs, channels or outputs, outputs
    self.layers = nnx.List(
      [
        layers.convolution(
          a,
          b,
          1,
          kernel_init=layers.TORCH_DEFAULT,
          rngs=rngs,
        )
        for a, b in itertools.pairwise(widths)
      ]
    )
    self.rho = nnx.Param(jnp.full(outputs, rho))

  def __call__(self, x: Array) -> Array:
    *before, last = self.layers
    for layer in before:
      x = nnx.relu(layer(x))
    return last(x)


ROWS = {
  "vid": row(
    "features",
    "Variational information distillation, Ahn 2019",
    "predicts the teacher's maps with a learned variance",
    _vid,
    source=REPDISTILLER,
  ),
}
