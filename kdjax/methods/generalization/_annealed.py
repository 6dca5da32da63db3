"""A penalty whose weight counts after some steps only."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.methods._method import Method
from kdjax.methods._objective import Metrics, Objective
from kdjax.methods.optimizers._restart_at import restart_at


def annealed(
  penalty: Objective,
  *,
  weight: ArrayLike,
  before: float,
  steps: ArrayLike,
) -> Method:
  """Penalty times a weight that jumps at a step, as DomainBed anneals.

  Weight and step are in the state, as `"weight"` and `"anneal_steps"`. The
  optimizer begins anew at that step, as DomainBed makes a new Adam there.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    params, state = penalty.init(key, specs)
    return params, {
      "step": jnp.zeros((), jnp.int32),
      "weight": jnp.asarray(weight, float),
      "anneal_steps": jnp.asarray(steps, float),
      "penalty": state,
    }

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    step = state["step"]
    value, moved, metrics = penalty.apply(
      params, state["penalty"], outputs, batch, key, axis_name=axis_name
    )
    now = jnp.where(step < state["anneal_steps"], before, state["weight"])
    return now * value, state | {"step": step + 1, "penalty": moved}, metrics

  return Method(
    Objective(init, apply),
    optimizer=lambda optimizer: restart_at(optimizer, steps),
  )
