"""Distillation by Wasserstein distances (WKD)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import maps_of, matched_stages
from kdjax.methods.distillation.features._fitnet import Regressor


def wkd_logit(
  *,
  iterations: int = 10,
  sharpness: ArrayLike = 1.0,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Wasserstein distillation of logits (WKD-L).

  The `kdjax.distillation.wkd_logit_loss`, with the cost that the
  `kdjax.distillation.wkd_class_cost` reads from the teacher's classifier.

  Args:
    iterations: of Sinkhorn's algorithm.
    sharpness: of the cost.
    **hyperparameters: of the loss.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: from `apply`, if the teacher returns no classifier.

  The authors' CIFAR-100 runs take the cost from the alignment of the classes'
  features, which needs a pass over the training images beforehand.

  References:
    Lv, Yang and Li, `Wasserstein distance rivals Kullback-Leibler divergence
    for knowledge distillation <https://arxiv.org/abs/2412.08139>`_, 2024.
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


def wkd_feature(
  *,
  mean_weight: ArrayLike = 4.0,
  grid: int = 1,
) -> Objective:
  """Wasserstein distillation of features (WKD-F) of the last stage.

  The `kdjax.distillation.wkd_feature_loss` of the teacher's map and the
  student's, which goes through `fitnet`'s convolution, batch
  normalization and ReLU.

  Args:
    mean_weight: of the means, beside the standard deviations.
    grid: how many rows and columns of cells.

  Returns:
    An objective; its published weight is 0.08 for resnet32x4 -> resnet8x4.

  Raises:
    ValueError: if the teacher's map is larger than the student's but no
      multiple of it, or the grid is finer than the map.

  References:
    Lv, Yang and Li, `Wasserstein distance rivals Kullback-Leibler divergence
    for knowledge distillation <https://arxiv.org/abs/2412.08139>`_, 2024.
  """

  def select(
    student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    ours, theirs = matched_stages(student, teacher)[-1]
    (projected,) = maps_of("student", student, "features", [ours])
    (target,) = maps_of("teacher", teacher, "features", [theirs])
    return projected, target

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(select, student, teacher)
    return Regressor(ours.shape, theirs.shape, rngs=rngs)

  def loss(
    regressor: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    mean_weight: ArrayLike,
  ) -> Array:
    ours, theirs = select(student, teacher)
    return distillation.wkd_feature_loss(
      nnx.relu(regressor(ours)), theirs, mean_weight=mean_weight, grid=grid
    )

  return modular(build, loss, mean_weight=mean_weight)
