"""Groups of layers, from the paths of a student's parameters."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

_FIRST = re.compile(r"(stem|embed\w*|patches|tokens?|input\w*)$")
_LAST = re.compile(r"(head|heads|classifier|classifiers|fc|output|logits)$")
_LATE = re.compile(r"(last|norm|final\w*)$")


def layer_groups(name: str, params: Any) -> tuple[str, ...]:
  """Regular expressions of the layers of a student, the head as the last.

  A list of layers is a group for each of them.

  Args:
    name: of the method, for the error.
    params: network -> parameters.

  Returns:
    Expressions such as `"^student/layers/0/"`; none if there is no student.

  Raises:
    ValueError: if the names of the layers do not tell their order.
  """
  if not isinstance(params, Mapping) or "student" not in params:
    return ()
  paths = jax.tree_util.tree_leaves_with_path(params["student"])
  layers = dict.fromkeys(_layer(path) for path, _ in paths)
  ordered = sorted(layers, key=_place)
  middle = {_place(x)[1] for x in ordered if _place(x)[0] == 1}
  heads = [x for x in ordered if _LAST.match(x[0])]
  if len(middle) > 1 or not heads:
    raise ValueError(
      f"{name}: the order of the layers {sorted({x[0] for x in layers})} does "
      f"not follow from their names; expected create({name!r}, groups=[...]), "
      "regular expressions of paths from the input to the output."
    )
  return tuple(f"^student/{'/'.join(x)}(/|$)" for x in ordered)


def by_layers(
  name: str,
  groups: Sequence[str] | None,
  make: Callable[[Sequence[str]], Any],
) -> optax.GradientTransformationExtraArgs:
  """A transformation of groups, which follow from the parameters if None."""

  def of(tree: Any) -> optax.GradientTransformationExtraArgs:
    own = layer_groups(name, tree) if groups is None else groups
    return optax.with_extra_args_support(make(own))

  def init(params: Any) -> Any:
    return of(params).init(params)

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    return of(updates).update(updates, state, params, **extra)

  return optax.GradientTransformationExtraArgs(init, update)


def _layer(path: Sequence[Any]) -> tuple[str, ...]:
  """The name of a layer, with its number within a list."""
  names = [jax.tree_util.keystr((k,), simple=True) for k in path[:2]]
  numbered = len(names) > 1 and names[1].isdigit()
  return tuple(names if numbered else names[:1])


def _place(layer: Sequence[str]) -> tuple[Any, ...]:
  """Sorts first layers, numbered ones and heads."""
  kinds = ((_FIRST, 0), (_LATE, 2), (_LAST, 3))
  kind = next((k for p, k in kinds if p.match(layer[0])), 1)
  stem = re.sub(r"\d+$", "", layer[0])
  numbers = [int(x) for part in layer for x in re.findall(r"\d+", part)]
  return kind, stem, *numbers
