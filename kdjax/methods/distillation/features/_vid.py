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
from kdjax.nets import layers


def vid(
  *,
  hidden: int | None = None,
  init_variance: float = 5.0,
  eps: float = 1e-5,
) -> Objective:
  r"""Variational information distillation (VID) over all stages.

  Each stage's `kdjax.distillation.vid_loss`, summed over the stages
  without the stem. The mean comes from the student's map by three 1x1
  convolutions without bias and ReLU between them; the variance of channel c is
  softplus(rho_c) + eps, and rho is trained. Of maps of unequal size the larger
  is averaged to the smaller.

  Args:
    hidden: channels between the convolutions; the teacher's without it.
    init_variance: the variance at the start.
    eps: the least variance.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: if `init_variance` is not above `eps`.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> maps = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    >>> outputs = Outputs(maps, {"f0": maps}, None)
    >>> specs = {"student": outputs, "teacher": outputs}
    >>> params, _ = vid().init(jax.random.key(0), specs)
    >>> params[0]["rho"].shape
    (8,)

  References:
    Ahn et al., `Variational information distillation for knowledge transfer
    <https://arxiv.org/abs/1904.05835>`_, 2019, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
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
        _Gaussian(ours.shape[-1], hidden, theirs.shape[-1], rho, rngs)
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
    hidden: int | None,
    outputs: int,
    rho: float,
    rngs: nnx.Rngs,
  ):
    widths = inputs, hidden or outputs, hidden or outputs, outputs
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
