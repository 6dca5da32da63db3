"""Softmax regression representation learning (SRRL)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._classified import (
  classified_maps,
  classify,
)
from kdjax.nets import layers


def _srrl(
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
) -> Objective:
  """By `kdjax.distillation.srrl_loss`, of the last maps.

  The student's goes through a 1x1 convolution, batch normalization and ReLU to
  the teacher's channels; the teacher's classifier, which is not trained, sees
  its mean. cls_KD's `beta` is 5.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(classified_maps, student, teacher)
    return layers.ConvNorm(ours.shape[-1], theirs.shape[-1], 1, rngs=rngs)

  def loss(
    connector: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    alpha: Array,
    beta: Array,
  ) -> Array:
    ours, theirs = classified_maps(student, teacher)
    ours = nnx.relu(connector(ours))
    logits = classify("teacher", teacher, layers.global_mean(ours))
    return distillation.srrl_loss(
      ours, theirs, logits, teacher.logits, alpha=alpha, beta=beta
    )

  return modular(build, loss, alpha=alpha, beta=beta)


ROWS = {
  "srrl": row(
    "features",
    "Softmax regression representation learning, Yang 2021",
    "passes the student's features through the teacher's classifier",
    _srrl,
    source="KD_SRRL, train_imagenet_distillation.py",
  ),
}
