"""Batches of tasks, each with a support and queries."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._method import Pass

PASSES = {
  part: Pass(on=f"{part}.*", train=True, batch_axes=2)
  for part in ("query", "support")
}


def task_loss(loss: Any) -> Callable[[Any, Any], Array]:
  """The learner's loss as one of the examples of one task."""

  def of_task(params: Any, examples: Any) -> Array:
    part = jax.tree.map(lambda x: x[None], examples)
    # Both passes see them; what no loss reads is not computed.
    return loss(params, dict.fromkeys(PASSES, part))[0]

  return of_task


def over_devices(
  optimizer: optax.GradientTransformation, axis_name: str | None
) -> optax.GradientTransformation:
  """An optimizer of the mean gradient over the devices."""

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    updates = ops.mean_over_devices(updates, axis_name)
    return optimizer.update(updates, state, params)

  return optax.GradientTransformation(optimizer.init, update)
