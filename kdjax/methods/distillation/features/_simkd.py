"""SimKD: the teacher's classifier answers for the student."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._classified import (
  classified_maps,
  classify,
)
from kdjax.nets import layers


def _simkd(*, factor: int = 2) -> Objective:
  """By `kdjax.distillation.hint_loss`, of the last maps.

  The student's map comes to the teacher's by a projector: convolutions 1x1, 3x3
  and 1x1, each before batch normalization and ReLU, over the teacher's channels
  divided by `factor` in between. Of maps of unequal size the larger is averaged
  to the smaller. The student's own head is not trained: the answer is that of
  the teacher's classifier on the mean of the projected map.
  """
  ops.check_integer("factor", factor, 1)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(classified_maps, student, teacher)
    inputs, outputs = ours.shape[-1], theirs.shape[-1]
    hidden = max(outputs // factor, 1)
    return nnx.List(
      [
        layers.ConvNorm(inputs, hidden, 1, rngs=rngs),
        layers.ConvNorm(hidden, hidden, 3, rngs=rngs),
        layers.ConvNorm(hidden, outputs, 1, rngs=rngs),
      ]
    )

  def project(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    ours, theirs = ops.pool_to_smaller(*classified_maps(student, teacher))
    return layers.activate(projector, ours)[1], theirs

  def loss(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    return distillation.hint_loss(*project(projector, student, teacher))

  def predict(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    ours, _ = project(projector, student, teacher)
    return classify("teacher", teacher, layers.global_mean(ours))

  return modular(build, loss, predict=predict)


ROWS = {
  "simkd": row(
    "features",
    "SimKD, Chen 2022",
    "answers through the teacher's classifier",
    _simkd,
    cross_entropy=0.0,
    source="SimKD, run_distill.sh",
  ),
}
