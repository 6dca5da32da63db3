"""Gradual unfreezing of ULMFiT."""

from collections.abc import Sequence
from typing import Any

from kdjax.methods._method import Method
from kdjax.methods.finetuning._row_kinds import trained
from kdjax.methods.optimizers._layer_groups import by_layers
from kdjax.methods.optimizers._layerwise_training import gradual_unfreezing


def _unfreezing(
  *,
  steps_per_epoch: int | None = None,
  every: int | None = None,
  groups: Sequence[str] | None = None,
) -> Method:
  """One more group of layers is trained at a time, from the head on.

  Args:
    steps_per_epoch: the published number of steps between two groups.
    every: another one.
    groups: regular expressions of the layers, from the input to the output; by
      default those that the student's parameters have.
  """
  steps = steps_per_epoch if every is None else every
  if steps is None:
    raise ValueError(
      "create: unfreezing counts epochs; expected steps_per_epoch, or every, "
      "the steps between two groups."
    )

  def optimizer(inner: Any) -> Any:
    def thawing(groups: Sequence[str]) -> Any:
      return gradual_unfreezing(inner, groups, every=steps)

    return by_layers("unfreezing", groups, thawing)

  return Method(optimizer=optimizer)


ROWS = {
  "unfreezing": trained(
    "gradual unfreezing",
    "one more group of layers is trained at a time, from the last one",
    _unfreezing,
    tuned="every",
    source="ULMFiT's, an epoch",
  ),
}
