"""An average of the parameters over time, kept by the optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from kdjax import ops


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


class _Averaging(NamedTuple):
  """State of an optimizer beside which a method keeps an average."""

  optimizer: Any
  average: Any


def with_average(decay: ArrayLike) -> Callable[[Any], Any]:
  """A method's change of the optimizer: it keeps an average, if none is kept.

  Args:
    decay: of `parameter_ema`.

  Returns:
    `optimizer -> optimizer`, for `Method.optimizer`. An average that the
    caller's optimizer keeps stays as it is; so does `optax.MultiSteps`, which
    goes around all other links.
  """
  link = parameter_ema(decay)

  def change(optimizer: Any) -> Any:
    steps = getattr(getattr(optimizer, "init", None), "__self__", optimizer)
    if isinstance(steps, optax.MultiSteps):
      return optimizer
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
      state = inner.init(params)
      if optax.tree.get_all_with_path(state, "parameter_average"):
        return state
      return _Averaging(state, link.init(params))

    def update(
      updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> Any:
      if not isinstance(state, _Averaging):
        return inner.update(updates, state, params, **extra)
      updates, own = inner.update(updates, state.optimizer, params, **extra)
      updates, average = link.update(updates, state.average, params)
      return updates, _Averaging(own, average)

    return optax.GradientTransformationExtraArgs(init, update)

  return change


def _wide(x: Any) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)
