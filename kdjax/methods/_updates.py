"""Rules from the loss to the updates of the parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.methods._method import Update


class Turn(NamedTuple):
  """Turn: one of several updates within a step.

  Attributes:
    part: the loss, one of `Objective.parts`; None for the whole objective.
    moves: the networks that move, or `"objective"` for the method's own
      parameters; None moves all.
    times: how often the turn is taken.

  References:
    `alternate`.
  """

  part: str | None = None
  moves: tuple[str, ...] | None = None
  times: int = 1


def alternate(*turns: Turn) -> Update:
  """Update: several updates a step, each of a part of the loss.

  Each network, and the objective's parameters together, have an optimizer state
  of their own, as published loops have an optimizer for each module. A turn
  sees the parameters, batch statistics and memories that the turn before left.

  Args:
    *turns: in their order.

  Returns:
    An `Update`. The metrics are those of all turns; `"loss"` is the sum of the
    turns' losses.

  Examples:
    >>> from kdjax.methods import Turn, alternate
    >>> update = alternate(Turn(moves=("peer_0",)), Turn(moves=("peer_1",)))

  References:
    Saito et al., `Maximum classifier discrepancy for unsupervised domain
    adaptation <https://arxiv.org/abs/1712.02560>`_, 2018: three steps a batch.
  """

  def init(params: Any, optimizer: Any) -> Any:
    own = {k: optimizer.init({k: v}) for k, v in params.items()}
    return {"optimizer": own}

  def apply(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    optimizer: Any,
  ) -> tuple[tuple[Array, Any], Any, Any]:
    del key
    moved, states = dict(params), dict(state["optimizer"])
    total: Any = 0.0
    metrics: dict[str, Any] = {}
    network_state: Any = None
    order = [turn for turn in turns for _ in range(turn.times)]
    for turn in order:
      names = [
        k
        for k in (turn.moves or tuple(params))
        if jax.tree.leaves(params.get(k, ()))
      ]

      own_loss = functools.partial(
        _of_some, loss, dict(moved), batch, turn.part, network_state
      )

      own = {k: moved[k] for k in names}
      seen, gradients = jax.value_and_grad(own_loss, has_aux=True)(own)
      value, (network_state, pairs) = seen
      for name in names:
        updates, states[name] = optimizer.update(
          {name: gradients[name]},
          states[name],
          {name: moved[name]},
          seen=seen,
        )
        new: Any = optax.apply_updates({name: moved[name]}, updates)
        moved[name] = new[name]
      total += value
      metrics |= pairs
    if len(turns) > 1 and "loss" in metrics:
      count = metrics["loss"][1]
      metrics["loss"] = (total * count, count)
    updates = jax.tree.map(lambda new, old: new - old, moved, dict(params))
    return (total, (network_state, metrics)), updates, {"optimizer": states}

  return Update(init, apply)


def _of_some(
  loss: Callable[..., Any],
  params: Any,
  batch: Any,
  part: str | None,
  state: Any,
  some: Any,
) -> Any:
  """The loss as a function of the parameters of some networks."""
  return loss({**params, **some}, batch, part=part, state=state)


def alternate_networks() -> Update:
  """Update: each network in its turn, by the whole loss.

  A turn sees the parameters that the turn before left. The batch statistics of
  a network, and the objective's memory, move once a step; the objective's own
  parameters move with the first network.

  Returns:
    An `Update` of as many turns as there are networks. The loss in the metrics
    is that before the first turn.

  Examples:
    >>> from kdjax.methods import alternate_networks
    >>> update = alternate_networks()

  References:
    Zhang et al., `Deep mutual learning <https://arxiv.org/abs/1706.00384>`_,
    2018, algorithm 1.
  """

  def init(params: Any, optimizer: Any) -> Any:
    return {"optimizer": {k: optimizer.init({k: params[k]}) for k in params}}

  def apply(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    optimizer: Any,
  ) -> tuple[tuple[Array, Any], Any, Any]:
    del key
    networks = sorted(k for k in params if k != "objective")
    moved, states, first = dict(params), dict(state["optimizer"]), None
    for name in networks:
      own = {name: moved[name]}
      if first is None and jax.tree.leaves(params.get("objective", ())):
        own["objective"] = moved["objective"]
      now = dict(moved)
      seen, gradients = jax.value_and_grad(
        lambda own, now=now: loss({**now, **own}, batch), has_aux=True
      )(own)
      for part in own:
        updates, states[part] = optimizer.update(
          {part: gradients[part]}, states[part], {part: own[part]}, seen=seen
        )
        new: Any = optax.apply_updates({part: own[part]}, updates)
        moved[part] = new[part]
      if first is None:
        first = seen
      value, (network_state, metrics) = first
      network_state = {**network_state, name: seen[1][0][name]}
      first = value, (network_state, metrics)
    updates = jax.tree.map(lambda new, old: new - old, moved, dict(params))
    assert first is not None
    return first, updates, {"optimizer": states}

  return Update(init, apply)


def gradient_update(
  gradients: Callable[..., Any],
  *,
  hyperparameters: Mapping[str, Any] | None = None,
) -> Update:
  """Update: another way to the gradient, which the optimizer then takes.

  Args:
    gradients: `(loss, params, batch, key, state, *, axis_name) -> (value,
      aux), gradients`, where `state` has the hyper-parameters, as arrays, and
      `"inner"`, the optimizer for inner steps.
    hyperparameters: numbers, which live in the state.

  Returns:
    An `Update`.

  References:
    `jax.value_and_grad
    <https://docs.jax.dev/en/latest/_autosummary/jax.value_and_grad.html>`_.
  """

  def init(params: Any, optimizer: Any) -> Any:
    own = {k: jnp.asarray(v, float) for k, v in (hyperparameters or {}).items()}
    return {"optimizer": optimizer.init(params), **own}

  def apply(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    optimizer: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[tuple[Array, Any], Any, Any]:
    own = state | {"inner": optimizer}
    seen, found = gradients(loss, params, batch, key, own, axis_name=axis_name)
    updates, moved = optimizer.update(
      found, state["optimizer"], params, seen=seen
    )
    return seen, updates, state | {"optimizer": moved}

  return Update(init, apply)
