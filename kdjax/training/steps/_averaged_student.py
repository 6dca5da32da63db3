"""The student with the average of its parameters."""

from typing import Any

import jax
import optax

from kdjax.training.networks._models import Variables
from kdjax.training.steps._state import TrainState


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
    >>> import jax.numpy as jnp
    >>> from kdjax import methods
    >>> ema = methods.parameter_ema(0.9)
    >>> optimizer = optax.chain(optax.sgd(1.0), ema)
    >>> params = {"student": jnp.array(2.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> state = TrainState(0, params, state, optimizer.init(params))
    >>> averaged_student(state).params
    Array(2., dtype=float32)

  References:
    Polyak and Juditsky, `Acceleration of stochastic approximation by averaging
    <https://doi.org/10.1137/0330046>`_, 1992.
  """
  if not has_average(state.optimizer_state):
    raise ValueError(
      "averaged_student: the optimizer keeps no average; expected "
      "parameter_ema as its last link."
    )
  # An update that alternates has an optimizer for each network.
  found = optax.tree.get_all_with_path(
    state.optimizer_state, "parameter_average"
  )
  average = next(average for _, average in found if "student" in average)
  # The average may be wider than the parameters it stands for.
  params = jax.tree.map(
    lambda mean, now: mean.astype(now.dtype),
    average["student"],
    state.params["student"],
  )
  return Variables(params, state.state["student"])


def has_average(optimizer_state: Any) -> bool:
  """Whether an optimizer keeps an average of the parameters."""
  name = "parameter_average"
  return bool(optax.tree.get_all_with_path(optimizer_state, name))
