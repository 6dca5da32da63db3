"""Universal self-knowledge distillation (USKD)."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import matched_stages
from kdjax.methods.distillation._row_kinds import CLS_KD, row
from kdjax.nets import layers


def _uskd(
  *,
  alpha: ArrayLike = 0.1,
  beta: ArrayLike = 0.1,
  weak_weight: ArrayLike = 0.1,
) -> Objective:
  """By `kdjax.distillation.uskd_loss`, with its weak classifier.

  The classifier is linear, on the stage before the last, averaged over its
  positions; `weak_weight` is that of its own loss.
  """

  def stage(student: Any) -> Any:
    names = [ours for ours, _ in matched_stages(student, student)]
    return student.features[names[max(len(names) - 2, 0)]]

  def build(student: Any, rngs: nnx.Rngs) -> nnx.Module:
    return layers.classifier(
      stage(student).shape[-1],
      student.logits.shape[-1],
      rngs=rngs,
    )

  def loss(
    classifier: Any,
    student: nets.Outputs,
    labels: Any,
    where: Any,
    *,
    axis_name: str | None,
    **hyper: Array,
  ) -> Array:
    feature = stage(student)
    middle = jnp.mean(feature, tuple(range(1, feature.ndim - 1)))
    return distillation.uskd_loss(
      student.logits,
      labels,
      classifier(middle),
      where=where,
      axis_name=axis_name,
      **hyper,
    )

  return modular(build, loss, alpha=alpha, beta=beta, weak_weight=weak_weight)


ROWS = {
  "uskd": row(
    "logits",
    "Universal self-KD, Yang 2023",
    "makes soft labels from the student and a weak classifier on a stage",
    _uskd,
    source=CLS_KD,
    networks=(),
  ),
}
