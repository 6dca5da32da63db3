"""An average of the parameters over time, kept by the optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from kdjax import ops
from kdjax.training.networks._models import Variables
from kdjax.training.steps._state import TrainState


class ParameterEMAState(NamedTuple):
  """State of `parameter_ema`."""

  decay: Any
  parameter_average: Any


def parameter_ema(decay: ArrayLike) -> optax.GradientTransformation:
  r"""Exponential moving average (EMA) of the parameters.

  .. math::
    \bar\theta_t = \beta\, \bar\theta_{t-1} + (1 - \beta)\, \theta_t, \qquad
    \bar\theta_0 = \theta_0

  The last link of an `optax.chain`; updates pass unchanged. So the average is
  part of the optimizer's state, and checkpointed, sharded and vmapped with it.

  Args:
    decay: `beta` in [0, 1], which may be traced; kept in the state.

  Returns:
    An Optax transformation. The average is in float32, or wider where the
    parameters are: in bfloat16 it would stand still.

  Raises:
    ValueError: if a static decay is outside [0, 1]; from `update`, without
      the parameters.

  Examples:
    >>> optimizer = optax.chain(optax.sgd(1.0), parameter_ema(0.9))
    >>> params = jnp.array(1.0)
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(jnp.array(1.0), state, params)
    >>> optax.tree.get(state, "parameter_average")
    Array(0.9, dtype=float32)

  References:
    Polyak and Juditsky, `Acceleration of stochastic approximation by averaging
    <https://doi.org/10.1137/0330046>`_, 1992; `optax.incremental_update`.
  """
  ops.check_range("parameter_ema: decay", decay, 0.0, 1.0)

  def init(params: Any) -> ParameterEMAState:
    # A copy, since parameters and average may be donated together.
    average = jax.tree.map(lambda x: jnp.array(x, _wide(x)), params)
    return ParameterEMAState(jnp.asarray(decay, float), average)

  def update(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, ParameterEMAState]:
    if params is None:
      raise ValueError(
        "parameter_ema: params is None; expected the parameters, as in "
        "update(updates, state, params)."
      )
    new = optax.apply_updates(params, updates)
    average = optax.incremental_update(
      jax.tree.map(lambda x: x.astype(_wide(x)), new),
      state.parameter_average,
      1 - state.decay,
    )
    return updates, ParameterEMAState(state.decay, average)

  return optax.GradientTransformation(init, update)


def averaged_student(state: TrainState) -> Variables:
  """The student with the average of its parameters, to evaluate or to teach.

  Its state, such as batch statistics, is the student's current one. A pass of
  the network `"average"` runs it in a train step (mean teacher, momentum
  encoder).

  Args:
    state: a train state whose optimizer has `parameter_ema`.

  Returns:
    Variables for the student's forward, in the dtypes of its parameters.

  Raises:
    ValueError: if the optimizer keeps no average.

  Examples:
    >>> optimizer = optax.chain(optax.sgd(1.0), parameter_ema(0.9))
    >>> params = {"student": jnp.array(2.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> state = TrainState(0, params, state, optimizer.init(params))
    >>> averaged_student(state).params
    Array(2., dtype=float32)

  References:
    Polyak and Juditsky, `Acceleration of stochastic approximation by averaging
    <https://doi.org/10.1137/0330046>`_, 1992.
  """
  if not has_average(state):
    raise ValueError(
      "averaged_student: the optimizer keeps no average; expected "
      "parameter_ema as its last link."
    )
  average = optax.tree.get(state.optimizer_state, "parameter_average")
  # The average may be wider than the parameters it stands for.
  params = jax.tree.map(
    lambda mean, now: mean.astype(now.dtype),
    average["student"],
    state.params["student"],
  )
  return Variables(params, state.state["student"])


def has_average(state: TrainState) -> bool:
  """Whether the optimizer keeps an average of the parameters."""

  def is_average(x: Any) -> bool:
    return isinstance(x, ParameterEMAState)

  leaves = jax.tree.leaves(state.optimizer_state, is_leaf=is_average)
  return any(map(is_average, leaves))


def _wide(x: Any) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)
