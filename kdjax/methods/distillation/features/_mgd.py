"""Masked generative distillation (MGD)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import select_stages
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _mgd(
  *,
  mask_ratio: ArrayLike = 0.15,
  mask: str = "channel",
) -> Objective:
  """By `kdjax.distillation.mgd_loss`, of the last maps.

  Parts of the student's map are set to 0: whole channels, or positions with
  `mask="spatial"` (detection has the ratio 0.65, segmentation 0.75). Two 3x3
  convolutions with a ReLU between them rebuild the map. A map of other channels
  than the teacher's goes through a 1x1 convolution first. Of maps of unequal
  size the larger is averaged to the smaller. The published weight on ImageNet
  is 7e-5.
  """
  ops.check_choice("mask", mask, ("channel", "spatial"))
  ops.check_positive("mask_ratio", mask_ratio)
  ops.check_range("mask_ratio", mask_ratio, 0.0, 1.0)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(select_stages, student, teacher)
    inputs, outputs = ours[-1].shape[-1], theirs[-1].shape[-1]
    parts: dict[str, Any] = {"generation": Generation(outputs, rngs)}
    if inputs != outputs:
      parts["align"] = convolution(inputs, outputs, 1, rngs)
    return nnx.Dict(parts)

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    mask_ratio: Array,
    key: Array,
    axis_name: str | None,
  ) -> Array:
    stages = select_stages(student, teacher)
    ours, theirs = ops.pool_to_smaller(stages[0][-1], stages[1][-1])
    if "align" in parts:
      ours = parts["align"](ours)
    rows, height, width, channels = ours.shape
    sizes = (1, 1, channels) if mask == "channel" else (height, width, 1)
    noise = batch_uniform(key, (rows, *sizes), axis_name)
    masked = jnp.where(noise < mask_ratio, 0.0, ours)
    return distillation.mgd_loss(parts["generation"](masked), theirs)

  return modular(build, loss, mask_ratio=mask_ratio)


class Generation(nnx.Module):
  """Two 3x3 convolutions with a ReLU between them."""

  def __init__(self, channels: int, rngs: nnx.Rngs):
    self.first = convolution(channels, channels, 3, rngs)
    self.second = convolution(channels, channels, 3, rngs)

  def __call__(self, x: Array) -> Array:
    return self.second(nnx.relu(self.first(x)))


def batch_uniform(
  key: Array, shape: tuple[int, ...], axis_name: str | None
) -> Array:
  """Draws for the whole batch and returns this device's rows.

  So an example gets the same numbers however many devices there are.
  """
  if axis_name is None:
    return jax.random.uniform(key, shape)
  rows, *rest = shape
  whole = (jax.lax.axis_size(axis_name) * rows, *rest)
  return ops.local_rows(jax.random.uniform(key, whole), rows, axis_name)


def convolution(
  inputs: int, outputs: int, size: int, rngs: nnx.Rngs
) -> nnx.Conv:
  return layers.convolution(
    inputs,
    outputs,
    size,
    use_bias=True,
    kernel_init=layers.TORCH_DEFAULT,
    rngs=rngs,
  )


ROWS = {
  "mgd": row(
    "features",
    "Masked generative distillation, Yang 2022",
    "generates the teacher's last map from a masked one of the student",
    _mgd,
    weight=1.2e-3,
    source="cls_KD, res34_distill_res18_cifar.py",
  ),
}
