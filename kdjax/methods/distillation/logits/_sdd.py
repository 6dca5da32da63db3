"""Distillation of regional logits."""

import functools
from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import as_map, field_of, last_feature


def sdd(
  *,
  inner: str = "kd",
  grids: Sequence[int] = (1, 2, 4),
  **hyperparameters: ArrayLike,
) -> Objective:
  """Scale-decoupled distillation (SDD) of the last maps.

  The `kdjax.distillation.sdd_loss` of the
  `kdjax.distillation.regional_logits` that each network's own classifier
  makes of its last map.

  Args:
    inner: the loss of a region: "kd", "dkd" or "nkd".
    grids: how many rows and columns each map is cut into, each in turn.
    **hyperparameters: of the inner loss, and `complementary_weight`.

  Returns:
    An objective; its published weight is the inner loss's.

  Raises:
    ValueError: from `apply`, if a network returns no classifier, no features,
      tokens for maps, or a last map whose mean the classifier does not take.

  References:
    Wei, Luo and Luo, `Scaled decoupled distillation
    <https://arxiv.org/abs/2403.13512>`_, 2024.
  """

  def logits_of(role: str, outputs: nets.Outputs) -> Array:
    feature = last_feature(role, outputs)
    kernel, bias = field_of(role, outputs, "classifier")
    if feature.ndim == 3 or feature.shape[-1] != kernel.shape[0]:
      raise ValueError(
        f"{role} has last features of shape {feature.shape}; expected maps of "
        f"{kernel.shape[0]} channels, whose mean its classifier sees."
      )
    return distillation.regional_logits(
      as_map(feature), kernel, bias, grids=grids
    )

  def select(
    student: nets.Outputs, teacher: nets.Outputs, labels: Any
  ) -> tuple[Any, ...]:
    ours, theirs = logits_of("student", student), logits_of("teacher", teacher)
    return ours, theirs, labels

  return stateless(
    functools.partial(distillation.sdd_loss, inner=inner),
    select,
    **hyperparameters,
  )
