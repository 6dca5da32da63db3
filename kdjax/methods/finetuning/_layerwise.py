"""Layer-wise learning rates of ULMFiT."""

from collections.abc import Sequence
from typing import Any

import optax
from jax.typing import ArrayLike

from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods.finetuning._row_kinds import trained
from kdjax.methods.optimizers._layer_groups import by_layers
from kdjax.methods.optimizers._layerwise_training import (
  layerwise_learning_rates,
)


def _layerwise(
  *, decay: ArrayLike = 1 / 2.6, groups: Sequence[str] | None = None
) -> Method:
  """Learning rates that fall from layer to layer, from the head to the input.

  Args:
    decay: the factor from a group to the one before it.
    groups: regular expressions of the layers, from the input to the output; by
      default those that the student's parameters have.
  """

  def rates(groups: Sequence[str]) -> Any:
    return layerwise_learning_rates(groups, decay=decay)

  def optimizer(inner: Any) -> Any:
    return optax.chain(inner, by_layers("layerwise", groups, rates))

  return Method(optimizer=optimizer)


ROWS = {
  "layerwise": trained(
    "layer-wise rates",
    "learning rates that fall by a factor from layer to layer",
    _layerwise,
    tuned="decay",
    search=Search(1 / 2.6),
    source="ULMFiT's factor",
  ),
}
