"""Objectives on logits that need more than a student's and a teacher's."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import matched_stages
from kdjax.nets import layers


def uskd(
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 0.1,
  weak_weight: ArrayLike = 0.005,
) -> Objective:
  """Universal self-knowledge distillation (USKD), with its weak classifier.

  The `kdjax.distillation.uskd_loss` of the student's logits and of those
  that a linear classifier gives the stage before the last, averaged over its
  positions. There need not be a teacher.

  Args:
    alpha: the weight of the labeled class.
    beta: the weight of the other classes.
    weak_weight: mu, the weight of the weak classifier's own loss.

  Returns:
    An objective; its published weight is 1, beside 1 times the cross-entropy.

  Raises:
    ValueError: from `init`, if the student has no features.

  References:
    Yang et al., `From knowledge distillation to self-knowledge distillation
    <https://arxiv.org/abs/2303.13005>`_, 2023, and its `code
    <https://github.com/yzd-v/cls_KD>`_.
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
    mask: Any,
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
      where=mask,
      axis_name=axis_name,
      **hyper,
    )

  return modular(build, loss, alpha=alpha, beta=beta, weak_weight=weak_weight)
