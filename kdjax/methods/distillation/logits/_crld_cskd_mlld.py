"""Methods on the logits of two views: CRLD, CS-KD, MLLD."""

from typing import Any

from jax.typing import ArrayLike

from kdjax import distillation, ops
from kdjax.methods._objective import Objective, combine, stateless


def crld(
  *,
  view: str = "strong",
  **hyperparameters: ArrayLike,
) -> Objective:
  """Cross-view consistency distillation (CRLD) of two views.

  The `kdjax.distillation.crld_loss`, and the cross-entropy of the strong
  view, which the authors add to that of the weak one.

  Args:
    view: the name of the strongly augmented view; the weak one is the batch.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Zhang et al., `Cross-view consistency regularization for knowledge
    distillation <https://arxiv.org/abs/2412.16493>`_, 2024.
  """
  return _two_views(distillation.crld_loss, view, **hyperparameters)


def cskd(
  *,
  temperature: ArrayLike = 4.0,
  view: str = "partner",
) -> Objective:
  """Class-wise self-distillation (CS-KD) from another image of the class.

  The `kdjax.distillation.cskd_loss`; it needs no teacher.

  Args:
    temperature: of the softened softmax.
    view: the name of the view that holds, for each image of the batch, another
      one of the same class.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Yun et al., `Regularizing class-wise predictions via self-knowledge
    distillation <https://arxiv.org/abs/2003.13964>`_, 2020.
  """
  names = ("student_logits", f"student_{view}_logits")
  return stateless(distillation.cskd_loss, names, temperature=temperature)


def mlld(
  *,
  level_weight: ArrayLike = 0.9,
  strong_labels: ArrayLike = 0.1,
  view: str = "strong",
  **hyperparameters: ArrayLike,
) -> Objective:
  """Multi-level logit distillation (MLLD) of a weak and a strong view.

  The `kdjax.distillation.mlld_loss` of both views, and the cross-entropy
  of the strong one, which the labels reach by no other way.

  Args:
    level_weight: of the three levels.
    strong_labels: the weight of the strong view's cross-entropy.
    view: the name of the strongly augmented view; the weak one is the batch.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1, beside 0.1 times the cross-entropy
    of the weak view.

  Raises:
    ValueError: from `apply`, if there is no such view.

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023, and its `code
    <https://github.com/Jin-Ying/Multi-Level-Logit-Distillation>`_.
  """
  return _two_views(
    distillation.mlld_loss,
    view,
    weight=level_weight,
    strong_labels=strong_labels,
    **hyperparameters,
  )


def _two_views(
  loss: Any,
  view: str,
  *,
  weight: ArrayLike = 1.0,
  strong_labels: ArrayLike = 1.0,
  **hyperparameters: ArrayLike,
) -> Objective:
  """A loss of the logits of both views, and the other view's cross-entropy."""
  names = ("student_logits", "teacher_logits")
  seen = (f"student_{view}_logits", f"teacher_{view}_logits")
  across = stateless(loss, (*names, *seen), **hyperparameters)
  labels = stateless(ops.cross_entropy, (seen[0], "labels"))
  return combine({"views": (weight, across), "ce": (strong_labels, labels)})
