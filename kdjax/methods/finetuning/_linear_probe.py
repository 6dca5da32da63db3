"""Linear probing: the head alone is trained."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from kdjax.methods._method import Method
from kdjax.methods.finetuning._row_kinds import trained
from kdjax.methods.optimizers._layer_groups import by_layers
from kdjax.methods.optimizers._layerwise_training import (
  layerwise_learning_rates,
)


def _linear_probe(*, groups: Sequence[str] | None = None) -> Method:
  """Rates of 0 for all groups of layers but the last one.

  The body's batch statistics move on with the target's examples.

  Args:
    groups: regular expressions of the layers, from the input to the output; by
      default those that the student's parameters have.
  """

  def still(groups: Sequence[str]) -> Any:
    body = groups[:-1]
    return layerwise_learning_rates(body, factors=jnp.zeros(len(body)))

  def optimizer(inner: Any) -> Any:
    return optax.chain(inner, by_layers("linear_probe", groups, still))

  return Method(optimizer=optimizer)


ROWS = {
  "linear_probe": trained(
    "linear probe", "the head alone: the body's parameters stay", _linear_probe
  ),
}
