"""Annealing KD."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._objective import (
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  widen,
)
from kdjax.methods.collaboration._row_kinds import taught


def _annealing(
  steps: int, *, max_temperature: ArrayLike = 10.0, share: float = 0.75
) -> Objective:
  """Annealing KD: softened logits for a share of the steps, then labels."""
  ops.check_integer("annealing: steps", steps, 1)
  ops.check_positive("annealing: share", share)
  ops.check_range("annealing: share", share, 0.0, 1.0)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    numbers = as_hyperparameters({"max_temperature": max_temperature})
    return {}, {"step": jnp.zeros((), jnp.int32)} | numbers

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key
    ours, theirs = (
      widen(ops.get_entry("annealing: outputs", outputs, role).logits)
      for role in ("student", "teacher")
    )
    top = state["max_temperature"]
    passed = state["step"] / (share * steps)
    temperature = jnp.maximum(top - jnp.floor(passed * top), 1.0)
    soft = collaboration.annealing_loss(
      ours, theirs, temperature=temperature, max_temperature=top
    )
    hard = ops.cross_entropy(
      ours, ops.get_entry("annealing: batch", batch, "label")
    )
    values = jnp.where(passed < 1, soft, hard)
    value = batch_mean(values, batch, axis_name, _annealing)
    state = state | {"step": state["step"] + 1}
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


ROWS = {
  "annealing": taught(
    "annealing KD",
    "logits of a teacher that is flat at first, then labels alone",
    _annealing,
    cross_entropy=0.0,
    tuned="",
    source="authors, CIFAR; the share of the steps is kdjax's",
  ),
}
