"""FitNets, and the regressor from one map to another."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import maps_of, matched_stages
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.nets import layers


def _fitnet(
  *,
  features: tuple[str, str] | None = None,
) -> Objective:
  """By `kdjax.distillation.hint_loss`, of the second stage or of `features`.

  A convolution, batch normalization and ReLU bring the student's map to the
  teacher's size and width: 3x3 of stride 2 from twice the size, a transposed
  2r x 2r of stride r to r times the size (the published code refuses all but
  r = 2), and otherwise one without padding whose size takes the difference.

  Departs from the paper, as RepDistiller does: the hint is beside the
  cross-entropy; in the paper it prepares the student in a stage of its own.
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


ROWS = {
  "fitnet": row(
    "features",
    "FitNets, Romero 2015",
    "regresses a middle map of the teacher",
    _fitnet,
    weight=100.0,
    source=REPDISTILLER,
  ),
}
