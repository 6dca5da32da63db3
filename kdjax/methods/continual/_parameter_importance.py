"""The penalty of EWC and of SI: important parameters stay in place."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import continual, ops
from kdjax.methods._objective import Metrics, Objective, loss_metric


def parameter_importance(importance: Any = None) -> Objective:
  """EWC's penalty and SI's: important parameters stay in place.

  The importance is in the state, so that it may be replaced after each task;
  None starts with 0.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    params = _params(specs, "student")
    if importance is None:
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
      return {}, {"importance": zeros}
    return {}, {"importance": jax.tree.map(jnp.asarray, importance)}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key, axis_name  # parameters are the same on all devices
    value = continual.ewc_penalty(
      _params(outputs, "student"),
      _params(outputs, "past"),
      state["importance"],
    )
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


def _params(outputs: Any, role: str) -> Any:
  name = "parameter_importance: outputs"
  params = ops.get_entry(name, outputs, role).params
  if params is None:
    raise ValueError(
      f"{name}[{role!r}] has no params; expected those that a learner shows."
    )
  return params
