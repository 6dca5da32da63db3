"""Hyper-parameters in a state: by name, or by part and name."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import methods
from kdjax.training.steps._state import TrainState

# Levels of an objective's state that are no parts of a method.
_PLAIN = ("objectives", "hyperparameters", "weights", "penalty")
_OTHER = ("module", "optimizer")


def with_hyperparameters(
  door: str, state: TrainState, values: Mapping[str, Any]
) -> TrainState:
  """The state with other hyper-parameters of the objective and of the update.

  A name that stands in several parts is given by part, `"kd/temperature"`. The
  weights of a `combine` have the names of the parts.
  """
  for name, value in values.items():
    own = state.state["objective"]
    update = state.optimizer_state
    update = update if isinstance(update, Mapping) else {}
    found = {path: (0, path) for path in _paths(own)}
    found |= {path: (1, path) for path in _paths(update)}
    places = [
      path
      for path in found
      if path.name == name or path.name.endswith(f"/{name}")
    ]
    exact = [path for path in places if path.name == name]
    places = exact if len(exact) == 1 else places
    if not places:
      known = sorted({path.name for path in found})
      raise ValueError(
        f"{door}: there is no hyper-parameter {name!r}; expected "
        f"{methods.nearest(name, known)}."
      )
    if len(places) > 1:
      raise ValueError(
        f"{door}: {name} stands in several parts; expected one of "
        f"{', '.join(sorted(path.name for path in places))}."
      )
    tree, path = found[places[0]]
    if tree:
      changed = _replaced(state.optimizer_state, path.keys, value)
      state = state._replace(optimizer_state=changed)
    else:
      changed = _replaced(own, path.keys, value)
      state = state._replace(state=state.state | {"objective": changed})
      if path.keys[-1] == "anneal_steps":
        moved = _restarting(state.optimizer_state, value)
        state = state._replace(optimizer_state=moved)
  return state


class _Path(tuple):
  """The keys to a number; its name is that of its parts."""

  __slots__ = ()

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(self)

  @property
  def name(self) -> str:
    return "/".join(k for k in self if k not in _PLAIN)


def _paths(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[_Path]:
  """The paths of all numbers in the mappings of a state."""
  if not isinstance(tree, Mapping):
    return
  for key, value in tree.items():
    if key in _OTHER or not isinstance(key, str):
      continue
    if isinstance(value, Mapping):
      yield from _paths(value, (*keys, key))
    elif key != "step" and jnp.issubdtype(
      getattr(value, "dtype", jnp.int32), jnp.floating
    ):
      yield _Path((*keys, key))


def _restarting(optimizer_state: Any, step: Any) -> Any:
  """The state of `methods.restart_at` with another step."""

  def restarts(x: Any) -> bool:
    return {"at", "optimizer_state"} <= set(getattr(x, "_fields", ()))

  return jax.tree.map(
    lambda x: (
      x._replace(at=jnp.asarray(step, x.at.dtype)) if restarts(x) else x
    ),
    optimizer_state,
    is_leaf=restarts,
  )


def _replaced(tree: Any, keys: tuple[str, ...], value: Any) -> Any:
  first, *rest = keys
  if rest:
    return {**tree, first: _replaced(tree[first], tuple(rest), value)}
  return {**tree, first: jnp.asarray(value, tree[first].dtype)}
