"""An optimizer that begins anew at a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Int


class RestartState(NamedTuple):
  """State of `restart_at`."""

  step: Int[Array, ""]
  at: Int[Array, ""]
  optimizer_state: Any


def restart_at(
  optimizer: optax.GradientTransformation, at: ArrayLike
) -> optax.GradientTransformationExtraArgs:
  """Restart: an optimizer whose state is as at the start from a step on.

  Where a loss jumps, such as at the end of the annealing of IRM, V-REx and
  Fishr, the moments of Adam are those of another loss; DomainBed then makes a
  new Adam. A schedule inside begins anew too.

  Args:
    optimizer: any Optax transformation; it is wrapped.
    at: the step, kept in the state, which may be traced; at 0 or less nothing
      happens.

  Returns:
    An Optax transformation around the optimizer.

  Examples:
    >>> optimizer = restart_at(optax.sgd(1.0, momentum=1.0), 1)
    >>> gradient = params = jnp.array(1.0)
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...   updates, state = optimizer.update(gradient, state, params)
    ...   print(updates)
    -1.0
    -1.0
    -2.0

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021, whose IRM resets Adam.
  """
  inner = optax.with_extra_args_support(optimizer)

  def init(params: Any) -> RestartState:
    step = jnp.zeros((), jnp.int32)
    return RestartState(step, jnp.asarray(at, jnp.int32), inner.init(params))

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, RestartState]:
    now = (state.step == state.at) & (state.step > 0)
    start = inner.init(updates if params is None else params)
    before = jax.tree.map(
      lambda new, old: jnp.where(now, new, old), start, state.optimizer_state
    )
    updates, moved = inner.update(updates, before, params, **extra)
    return updates, RestartState(state.step + 1, state.at, moved)

  return optax.GradientTransformationExtraArgs(init, update)
