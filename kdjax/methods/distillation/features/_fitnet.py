"""FitNets, and the regressor from one map to another."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import maps_of, matched_stages
from kdjax.nets import layers


def fitnet(
  *,
  features: tuple[str, str] | None = None,
) -> Objective:
  """Hint learning (FitNets): a regressor between two middle layers.

  The `kdjax.distillation.hint_loss` of the teacher's map and the
  student's, which goes through a convolution to the teacher's size and width,
  batch normalization and ReLU. The convolution is 3x3 of stride 2 for a
  student's map of twice the teacher's size, a transposed 4x4 of stride 2 for
  one of half the size (2r x 2r of stride r for other ratios, which the
  published code refuses), and otherwise one without padding whose size takes
  the difference.

  Args:
    features: the names of the student's and of the teacher's feature; without
      it the second stage, as in RepDistiller and mdistiller.

  Returns:
    An objective; its published weight is 100. In the paper it prepares the
    student in a stage of its own; RepDistiller adds it to the cross-entropy.

  Raises:
    ValueError: from `init`, if the teacher's map is larger than the student's
      but no multiple.

  References:
    Romero et al., `FitNets: hints for thin deep nets
    <https://arxiv.org/abs/1412.6550>`_, 2015, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def select(
    student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    stages = matched_stages(student, teacher)
    ours, theirs = features or stages[min(1, len(stages) - 1)]
    (hinted,) = maps_of("student", student, "features", [ours])
    (hint,) = maps_of("teacher", teacher, "features", [theirs])
    return hinted, hint

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    hinted, hint = jax.eval_shape(select, student, teacher)
    return Regressor(hinted.shape, hint.shape, rngs=rngs)

  def loss(
    regressor: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    hinted, hint = select(student, teacher)
    return distillation.hint_loss(nnx.relu(regressor(hinted)), hint)

  return modular(build, loss)


class Regressor(nnx.Module):
  """A convolution from one map's size and width to another's, and its norm."""

  def __init__(
    self,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    rngs: nnx.Rngs,
  ):
    old, new = inputs[1:3], outputs[1:3]
    options: dict[str, Any] = {
      "use_bias": False,  # batch normalization takes it away
      "kernel_init": layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    widths = inputs[-1], outputs[-1]
    if old == tuple(2 * size for size in new):
      self.convolution = nnx.Conv(
        *widths,
        (3, 3),
        strides=2,
        padding=1,
        conv_general_dilated=nets.convolve,
        **options,
      )
    elif all(a >= b for a, b in zip(old, new, strict=True)):
      size = tuple(1 + a - b for a, b in zip(old, new, strict=True))
      self.convolution = nnx.Conv(
        *widths,
        size,
        padding="VALID",
        conv_general_dilated=nets.convolve,
        **options,
      )
    elif all(b % a == 0 for a, b in zip(old, new, strict=True)):
      ratio = tuple(b // a for a, b in zip(old, new, strict=True))
      size = tuple(2 * r for r in ratio)
      self.convolution = nnx.ConvTranspose(
        *widths, size, strides=ratio, **options
      )
    else:
      raise ValueError(
        f"student has a map of {old} and teacher one of {new}; expected the "
        "teacher's to be at most as large, or a multiple."
      )
    self.norm = layers.batch_norm(outputs[-1], rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.norm(self.convolution(x))
