"""Objectives added up, with constant or scheduled weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._binding import Roles, learning_role, part_of
from kdjax.methods._objective import (
  Apply,
  Metrics,
  Objective,
  Schedule,
  as_number,
  loss_metric,
)


def combine(
  objectives: Mapping[str, tuple[ArrayLike | Schedule, Objective]],
) -> Objective:
  r"""Weighted sum of objectives, with constant or scheduled weights.

  .. math::
    \ell = \sum_i w_i(t)\, \ell_i

  where t counts the calls of `apply`. Constant weights and the counter are
  part of the state: `{"step", "weights", "objectives"}`.

  Args:
    objectives: name -> (weight, objective). The weight is a number, an array,
      or a function of the step such as an Optax schedule.

  Returns:
    An objective with the metric `"loss"`, the weighted sum, and the parts'
    own, unweighted, under `"name/..."`.

  Raises:
    TypeError: if a part is no pair of a weight and an objective; from `init`,
      if a weight is neither number nor function.
    ValueError: if there is no part, or several answer for the student; from
      `apply`, if the parameters are another objective's.

  Examples:
    >>> from kdjax.distillation import soft_target_loss
    >>> from kdjax.methods import stateless
    >>> objective = combine({"kd": (0.9, stateless(soft_target_loss))})
    >>> params, state = objective.init(jax.random.key(0), {})
    >>> state["weights"]
    {'kd': Array(0.9, dtype=float32)}

  References:
    `optax.chain and optax.named_chain
    <https://optax.readthedocs.io/en/latest/api/combining_optimizers.html>`_.
  """
  if not isinstance(objectives, Mapping):
    raise TypeError(
      f"combine: objectives is a {type(objectives).__name__}; expected a "
      "mapping, name -> (weight, objective)."
    )
  if not objectives:
    raise ValueError("combine: objectives is empty; expected one or more.")
  objectives = dict(objectives)
  for name, part in objectives.items():
    if not (
      isinstance(part, Sequence)
      and len(part) == 2
      and isinstance(part[1], Objective)
    ):
      raise TypeError(
        f"combine: {name} is {part!r}; expected (weight, objective). A loss "
        "becomes an objective by `stateless`."
      )

  def init(key: Array, specs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    params, states, weights = {}, {}, {}
    for i, (name, (weight, objective)) in enumerate(objectives.items()):
      params[name], states[name] = objective.init(
        jax.random.fold_in(key, i), specs
      )
      if not callable(weight):
        weights[name] = as_number(f"the weight of {name}", weight)
    step = jnp.zeros((), jnp.int32)
    return params, {"step": step, "weights": weights, "objectives": states}

  def apply(
    params: Any,
    state: Any,
    outputs: Roles,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    total: Any = 0.0
    states, metrics = {}, {}
    for i, (name, (schedule, objective)) in enumerate(objectives.items()):
      loss, states[name], parts = objective.apply(
        ops.get_entry("combine: the objective's params", params, name),
        state["objectives"][name],
        outputs,
        batch,
        jax.random.fold_in(key, i),
        axis_name=axis_name,
      )
      if callable(schedule):
        weight = schedule(state["step"])
      else:
        weight = state["weights"][name]
      total += weight * loss
      metrics |= {f"{name}/{metric}": pair for metric, pair in parts.items()}
    state = state | {"step": state["step"] + 1, "objectives": states}
    part = part_of(batch, learning_role(outputs))
    return total, state, loss_metric(total, part) | metrics

  answering = [k for k, (_, part) in objectives.items() if part.predict]
  if len(answering) > 1:
    raise ValueError(
      f"combine: {', '.join(answering)} answer for the student; expected at "
      "most one objective that does."
    )

  def predict(params: Any, state: Any, outputs: Roles) -> Array:
    (name,) = answering
    part = objectives[name][1]
    assert part.predict is not None
    return part.predict(params[name], state["objectives"][name], outputs)

  renewing = {
    k: part.renew for k, (_, part) in objectives.items() if part.renew
  }

  def renew(state: Any, outputs: Roles) -> Any:
    parts = dict(state["objectives"])
    for name, function in renewing.items():
      parts[name] = function(parts[name], outputs)
    return state | {"objectives": parts}

  def apply_part(name: str, own_name: str, part: Apply) -> Apply:
    def own(
      params: Any,
      state: Any,
      outputs: Roles,
      batch: Any,
      key: Array,
      *,
      axis_name: str | None = None,
    ) -> tuple[Array, Any, Metrics]:
      loss, moved, metrics = part(
        params[name],
        state["objectives"][name],
        outputs,
        batch,
        key,
        axis_name=axis_name,
      )
      schedule = objectives[name][0]
      weight = (
        schedule(state["step"])
        if callable(schedule)
        else state["weights"][name]
      )
      states = state["objectives"] | {name: moved}
      value: Any = weight * loss
      named = {f"{name}/{own_name}/{k}": v for k, v in metrics.items()}
      seen = {"loss": metrics["loss"]} if "loss" in metrics else {}
      return value, state | {"objectives": states}, named | seen

    return own

  return Objective(
    init,
    apply,
    predict if answering else None,
    renew if renewing else None,
    {
      part: apply_part(name, part, function)
      for name, (_, objective) in objectives.items()
      for part, function in objective.parts.items()
    },
  )
