"""Functions under meshes with Explicit axes, the default of `jax.make_mesh`.

With Explicit axes JAX asks for the sharding of each result that it cannot
infer, such as the product of two sharded matrices, and some operations have no
rule at all. So `validate` runs a function whose arguments are sharded in this
way through `jax.sharding.auto_axes`: inside, the compiler chooses, and each
axis of the result is sharded as the axis of the same name of the arguments.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

R = TypeVar("R")
# The mesh axes of a dimension, as in a `PartitionSpec`.
Axes = Any
# The key of the leading dimensions that all sharded arrays have in common.
_LEADING = ""


def explicit_mesh(tree: Any) -> Any:
  """Returns the mesh with Explicit axes that an array is sharded over.

  Args:
    tree: a pytree; leaves that are no arrays are ignored.

  Returns:
    The mesh, or None if no array is sharded over Explicit axes.
  """
  for leaf in jax.tree.leaves(tree):
    if isinstance(leaf, jax.Array):
      sharding = jax.typeof(leaf).sharding
      if sharding.mesh.explicit_axes and any(sharding.spec):
        return sharding.mesh
  return None


def in_auto_axes(
  function: Callable[..., R],
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  mesh: Any,
  specs: Any,
) -> R:
  """Calls a function with the axes of a mesh left to the compiler.

  Args:
    function: maps arrays to arrays.
    args: its arguments.
    kwargs: its keyword arguments.
    mesh: from `explicit_mesh`.
    specs: a `PartitionSpec` for each array of the result, or a prefix of their
      tree.

  Returns:
    The result.
  """
  leaves, structure = jax.tree.flatten((args, dict(kwargs)))
  places = [
    i for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)
  ]

  def of_arrays(*arrays: Any) -> R:
    filled = list(leaves)
    for i, array in zip(places, arrays, strict=True):
      filled[i] = array
    args, kwargs = structure.unflatten(filled)
    return function(*args, **kwargs)

  wanted = jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  automatic: Any = jax.sharding.auto_axes(
    of_arrays, axes=mesh.explicit_axes, out_sharding=wanted
  )
  return automatic(*(leaves[i] for i in places))


def partitions(tree: Any) -> Any:
  """Returns the `PartitionSpec` of each array of a tree.

  Args:
    tree: a pytree of arrays.

  Returns:
    The same tree of partitions.
  """
  return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)


def axes_of_dims(
  annotations: Mapping[str, str], arrays: Mapping[str, Any]
) -> dict[str, list[Axes]]:
  """Returns the mesh axes of each named dimension.

  Args:
    annotations: by argument, the dimensions of its array, such as "batch dims".
    arrays: by argument, the array.

  Returns:
    By the name of a dimension, its mesh axes.
  """
  axes_of: dict[str, list[Axes]] = {}
  for name, dims in annotations.items():
    spec = list(jax.typeof(arrays[name]).sharding.spec)
    tokens = dims.split()
    stars = [i for i, t in enumerate(tokens) if t.startswith(("*", "..."))]
    if stars:
      start, width = stars[0], len(spec) - len(tokens) + 1
      spec[start : start + width] = [spec[start : start + width]]
    for i, (token, axes) in enumerate(zip(tokens, spec, strict=True)):
      if token == "..." and len(tokens) > 1:
        continue  # the last dimensions of this array, not of others
      axes = axes if i in stars else [axes]
      known = axes_of.setdefault(token, axes)
      if not any(known) and len(known) == len(axes):
        axes_of[token] = axes
  sharded = [jax.typeof(arrays[x]).sharding.spec for x in annotations]
  axes_of[_LEADING] = _common_start([x for x in sharded if any(x)])
  return axes_of


def _common_start(specs: Sequence[Any]) -> list[Axes]:
  """Returns the entries that all partitions start with."""
  start: list[Axes] = []
  for entries in zip(*specs, strict=False):
    if any(x != entries[0] for x in entries):
      break
    start.append(entries[0])
  return start


def specs_of_result(
  annotation: Any, axes_of: Mapping[str, Sequence[Axes]]
) -> Any:
  """Returns the partitions of a result by the names of its dimensions.

  Args:
    annotation: of the result. Arrays without jaxtyping annotations are
      replicated.
    axes_of: from `axes_of_dims`.

  Returns:
    A prefix of the tree of the result.
  """
  if hasattr(annotation, "dim_str"):
    return PartitionSpec(*_used_once(_entries(annotation.dim_str, axes_of)))
  members = typing.get_args(annotation)
  if typing.get_origin(annotation) is tuple and Ellipsis not in members:
    return tuple(specs_of_result(x, axes_of) for x in members)
  if hasattr(annotation, "_fields"):  # a named tuple
    hints = annotation.__annotations__
    return annotation(
      *(specs_of_result(hints[x], axes_of) for x in annotation._fields)
    )
  # Of a union, what all members share. Others are replicated.
  options = [
    specs_of_result(x, axes_of) for x in members if hasattr(x, "dim_str")
  ]
  return PartitionSpec(*_common_start(options))


def _entries(dims: str, axes_of: Mapping[str, Sequence[Axes]]) -> list[Axes]:
  """Returns the mesh axes of the dimensions, as far as they are known."""
  entries: list[Axes] = []
  for token in dims.split():
    if not token.startswith(("*", "...")):
      entries += axes_of.get(token, [None])
    elif token in axes_of:
      entries += axes_of[token]
    else:
      # Any number of dimensions. Where examples are meant, the arguments share
      # their leading dimensions with the result.
      examples = token == "..." or token.lstrip("*") in axes_of
      if examples and not entries:
        entries += axes_of[_LEADING]
      break
  while entries and entries[-1] is None:  # The rank may be smaller in a union.
    entries.pop()
  return entries


def _used_once(entries: Sequence[Axes]) -> list[Axes]:
  """Returns the entries, with None for a mesh axis that is used before."""
  seen: set[str] = set()
  result = []
  for entry in entries:
    names = {entry} if isinstance(entry, str) else set(entry or ())
    result.append(None if names & seen else entry)
    seen |= names
  return result
