"""Checks of arguments that are no arrays of a known shape, by annotation.

Numbers, sequences, states, pytrees of arrays and random keys.
"""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree


class Check(NamedTuple):
  """The kinds of values of an argument that is no array."""

  accepts: Callable[[Any], bool]
  wanted: str


def check_of(parameter: inspect.Parameter) -> Check | None:
  """Returns the check that the annotation of a parameter asks for, or None."""
  if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
    return None
  annotation = parameter.annotation
  members = {annotation}
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    members = set(typing.get_args(annotation))
  absent = types.NoneType in members
  members -= {types.NoneType}

  def unless_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (absent and value is None) or accepts(value)

  if members == _NUMBERS:
    return Check(unless_none(_is_number), "a number or an array")
  if len(members) != 1:
    return None
  (only,) = members
  if typing.get_origin(only) is Sequence:
    return Check(
      unless_none(lambda x: hasattr(x, "__len__") and not isinstance(x, str)),
      "a sequence",
    )
  if parameter.name == "key" and only in (Any, Array):
    return Check(unless_none(_is_key), "a JAX random key")
  if only is PyTree:
    return Check(unless_none(_is_tree), "a pytree of arrays")
  fields = getattr(only, "_fields", None)
  if fields:
    return Check(
      unless_none(lambda x: all(hasattr(x, field) for field in fields)),
      f"a {only.__name__}",
    )
  return None


_NUMBERS = set(typing.get_args(ArrayLike))


def _is_number(value: Any) -> bool:
  kinds = jax.Array | np.ndarray | np.generic | bool | int | float | complex
  return isinstance(value, kinds) or hasattr(value, "__jax_array__")


def _is_key(value: Any) -> bool:
  """Keys of `jax.random.key`, and of the older `jax.random.PRNGKey`."""
  dtype = getattr(value, "dtype", None)
  new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
  return new or dtype == np.uint32


def _is_tree(value: Any) -> bool:
  """Shapes (`jax.ShapeDtypeStruct`) count as arrays."""
  leaves = jax.tree.leaves(value)
  return value is not None and all(
    _is_number(x) or (hasattr(x, "shape") and hasattr(x, "dtype"))
    for x in leaves
  )


def of_variable(value: Any) -> Any:
  """Returns the array of a variable, such as `nnx.Param`."""
  if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):
    return value.__jax_array__()
  return value
