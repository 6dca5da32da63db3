"""Objectives on logits that need more than a student's and a teacher's."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import mlld_loss
from kdjax.distillation import standardize_logits
from kdjax.distillation import uskd_loss
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._stages import matched_stages
from kdjax.ops._cross_entropy import cross_entropy


def uskd(
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 0.1,
  mu: ArrayLike = 0.005,
  axis_name: str | None = None,
) -> Objective:
  """Universal self-knowledge distillation (USKD), with its weak classifier.

  The :func:`kdjax.distillation.uskd_loss` of the student's logits and of those
  that a linear classifier gives the stage before the last, averaged over its
  positions. There need not be a teacher.

  Args:
    alpha: the weight of the labelled class.
    beta: the weight of the other classes.
    mu: the weight of the weak classifier's own loss.
    axis_name: the mapped axis that holds the rest of the batch.

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

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    del teacher
    return _layers.classifier(
      stage(student).shape[-1],
      student.logits.shape[-1],
      dtype=jnp.float32,
      rngs=rngs,
    )

  def loss(
    classifier: Any, student: Outputs, teacher: Any, batch: Any, **hyper: Array
  ) -> Array:
    del teacher
    feature = stage(student)
    middle = jnp.mean(feature, tuple(range(1, feature.ndim - 1)))
    return uskd_loss(
      student.logits,
      batch["label"],
      classifier(middle),
      where=batch["mask"],
      axis_name=axis_name,
      **hyper,
    )

  return modular(
    build, loss, axis_name=axis_name, alpha=alpha, beta=beta, mu=mu
  )


def mlld(
  *,
  weight: ArrayLike = 0.9,
  strong_labels: ArrayLike = 0.1,
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Multi-level logit distillation (MLLD) of a weak and a strong view.

  The :func:`kdjax.distillation.mlld_loss` of both views, and the cross-entropy
  of the strong one, which the labels reach by no other way. The outputs are
  those of the weakly augmented images; their `views["strong"]` are those of
  the strongly augmented.

  Args:
    weight: of the three levels.
    strong_labels: the weight of the strong view's cross-entropy.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1, beside 0.1 times the cross-entropy
    of the weak view.

  Raises:
    ValueError: from `apply`, if student or teacher have no strong view.

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023, and its `code
    <https://github.com/Jin-Ying/Multi-Level-Logit-Distillation>`_.
  """
  levels = stateless(
    mlld_loss, _select_views, axis_name=axis_name, **hyperparameters
  )
  labels = stateless(
    cross_entropy, _select_strong_supervised, axis_name=axis_name
  )
  return combine({"levels": (weight, levels), "ce": (strong_labels, labels)})


def select_standardized_and_labels(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array, Array]:
  """Selects both sides' logits as LSKD standardizes them, and the labels."""
  return (
    standardize_logits(student.logits),
    standardize_logits(teacher.logits),
    batch["label"],
  )


def _select_views(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array, Array, Array]:
  del batch
  return (
    student.logits,
    teacher.logits,
    _strong("student", student).logits,
    _strong("teacher", teacher).logits,
  )


def _select_strong_supervised(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array]:
  del teacher
  return _strong("student", student).logits, batch["label"]


def _strong(role: str, outputs: Outputs) -> Outputs:
  views = outputs.views or {}
  if "strong" not in views:
    raise ValueError(
      f"{role} has the views {sorted(views)}; expected 'strong', its outputs "
      "for the strongly augmented images."
    )
  return views["strong"]
