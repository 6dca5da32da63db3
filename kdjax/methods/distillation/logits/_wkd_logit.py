"""Wasserstein distillation of logits (WKD-L)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.distillation._row_kinds import row


def _wkd_logit(
  *,
  iterations: int = 10,
  sharpness: ArrayLike = 1.0,
  **hyperparameters: ArrayLike,
) -> Objective:
  """By `kdjax.distillation.wkd_logit_loss`, of the teacher's own cost.

  The cost is what `kdjax.distillation.wkd_class_cost` reads from the teacher's
  classifier, by `sharpness`.

  Departs from the authors' code: there the weight decays, and the CIFAR-100
  runs take the cost from the alignment of the classes' features, which needs a
  pass over the training images beforehand.
  """

  def loss(
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    teacher_classifier: tuple[Array, Array],
    *,
    sharpness: ArrayLike,
    **hyperparameters: Any,
  ) -> Array:
    kernel, _ = teacher_classifier
    cost = distillation.wkd_class_cost(kernel, sharpness=sharpness)
    return distillation.wkd_logit_loss(
      student_logits,
      teacher_logits,
      labels,
      cost,
      iterations=iterations,
      **hyperparameters,
    )

  options: dict[str, Any] = {"sharpness": sharpness, **hyperparameters}
  return stateless(loss, **options)


ROWS = {
  "wkd_logit": row(
    "logits",
    "Wasserstein distillation of logits, Lv 2024",
    "transports class probabilities by the likeness of the classes",
    _wkd_logit,
    source="WKD, configs/cifar100/wkd_l/res32x4_res8x4.yaml, without its decay "
    "and with the cost of the classifier",
  ),
}
