"""Checks of arguments by the jaxtyping annotations of a function.

Under pytest, beartype checks the annotations. For users, `validate` reads the
same annotations and raises an error that names the argument, its value and the
expectation. It checks shapes and dtypes, so it runs at trace time only.
"""

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.ops.devices._explicit_axes import (
  axes_of_dims,
  explicit_mesh,
  in_auto_axes,
  specs_of_result,
)
from kdjax.ops.validation._argument_kinds import check_of, of_variable

P = ParamSpec("P")
R = TypeVar("R")


def validate(
  function: Callable[P, R], *, runs_functions: bool = False
) -> Callable[P, R]:
  """Checks array arguments against their annotations before the call.

  NumPy arrays, Python numbers and variables of Flax NNX become JAX arrays. A
  mask may hold 0 and 1 of any type, and one-hot labels may be integers.
  Dimensions of the same name must be equal in all arguments. An argument must
  fit one member of a union.
  Arguments that are sharded over Explicit axes of a mesh are computed with by
  `jax.sharding.auto_axes`; the result is sharded over the same axes, where
  dimensions have the same names. This is not so if an argument is a function,
  which may use arrays of the caller that are sharded over Explicit axes.

  Args:
    function: a function whose array parameters have jaxtyping annotations.
    runs_functions: True for `jax.sharding.auto_axes` with functions as
      arguments too; they cannot use sharded arrays of the caller then.

  Returns:
    The function. It raises ValueError for a wrong shape, and TypeError for a
    wrong dtype or an argument that is not an array.
  """
  signature = inspect.signature(function)
  specs = {
    name: options
    for name, parameter in signature.parameters.items()
    if (options := _array_annotations(parameter.annotation))
  }
  optional = {
    name
    for name in specs
    if types.NoneType in typing.get_args(signature.parameters[name].annotation)
  }
  checks = {
    name: check
    for name, parameter in signature.parameters.items()
    if name not in specs and (check := check_of(parameter))
  }
  # The qualified name tells the class of a `__call__`.
  name_of_function = getattr(function, "__qualname__", repr(function))
  name_of_function = name_of_function.rpartition("<locals>.")[2]
  signature_text = call_signature(signature)

  @functools.wraps(function)
  def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
    try:
      bound = signature.bind(*args, **kwargs)
    except TypeError as error:
      raise TypeError(
        f"{name_of_function}: {error}; expected {signature_text}."
      ) from None
    sizes: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, options in specs.items():
      if name not in bound.arguments:
        continue
      value = bound.arguments[name]
      if value is None and name in optional:
        continue
      value = bound.arguments[name] = _as_array(value, options)
      try:
        bound.arguments[name] = _match(name, value, options, sizes, owners)
      except (TypeError, ValueError) as error:
        raise type(error)(f"{name_of_function}: {error}") from None
    for name, check in checks.items():
      if name not in bound.arguments:
        continue
      value = bound.arguments[name]
      if not check.accepts(value):
        raise TypeError(
          f"{name_of_function}: {name} is {value!r}; expected {check.wanted}."
        )
      bound.arguments[name] = of_variable(value)
    mesh = explicit_mesh((bound.args, bound.kwargs))
    if not runs_functions and any(map(callable, bound.arguments.values())):
      mesh = None
    if mesh is None:
      try:
        return function(*bound.args, **bound.kwargs)
      except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        empty = [x for x in specs if _is_empty(bound.arguments.get(x))]
        if not empty or "expected" in str(error):
          raise
        raise ValueError(
          f"{name_of_function}: {empty[0]} has shape "
          f"{bound.arguments[empty[0]].shape}; expected at least one entry on "
          "each axis."
        ) from error
    axes_of = axes_of_dims(_dims(bound.arguments, specs), bound.arguments)
    result = specs_of_result(signature.return_annotation, axes_of)
    return in_auto_axes(function, bound.args, bound.kwargs, mesh, result)

  return wrapped


def _dims(
  arguments: Mapping[str, Any], specs: Mapping[str, tuple[Any, ...]]
) -> dict[str, str]:
  """Returns the dimensions of each array, by the annotation that it fits."""
  return {
    name: next(
      option.dim_str
      for option in options
      if _has_dtype(arguments[name], option)
      and _bind(option.dim_str, arguments[name].shape, {}) is not None
    )
    for name, options in specs.items()
    if arguments.get(name) is not None
  }


def call_signature(signature: inspect.Signature) -> str:
  """Returns the parameters and defaults of a function without annotations.

  Args:
    signature: the signature of the function.

  Returns:
    A string such as `(logits, *, temperature=1.0)`.
  """
  bare = [
    parameter.replace(annotation=inspect.Parameter.empty)
    for parameter in signature.parameters.values()
  ]
  return str(inspect.Signature(bare))


def _is_empty(value: Any) -> bool:
  return isinstance(value, jax.Array) and not value.size


def _as_array(value: Any, options: tuple[Any, ...]) -> Any:
  """Returns a JAX array, of floats for a Python integer if no option is int.

  What is no array stays as it is. A mask of numbers becomes one of truths.
  """
  value = of_variable(value)
  if not isinstance(value, jax.Array | np.ndarray | np.generic | int | float):
    return value
  array = value if isinstance(value, jax.Array) else jnp.asarray(value)
  if all(o.__name__.startswith("Bool[") for o in options) and (
    array.dtype.kind in "iuf" or array.dtype == jnp.bfloat16
  ):
    return array != 0
  if isinstance(value, int) and not any(_has_dtype(array, o) for o in options):
    return jnp.asarray(float(value))
  return array


def _array_annotations(annotation: Any) -> tuple[Any, ...]:
  """Returns the jaxtyping annotations of a union, or the single one."""
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    members = typing.get_args(annotation)
  else:
    members = (annotation,)
  return tuple(m for m in members if hasattr(m, "dim_str"))


def _match(
  name: str,
  value: Any,
  options: tuple[Any, ...],
  sizes: dict[str, Any],
  owners: dict[str, str],
) -> jax.Array:
  """Checks one argument and records the sizes of its dimensions.

  Returns the argument; integer one-hot labels become floats.
  """
  if not isinstance(value, jax.Array):
    raise TypeError(
      f"{name} is a {type(value).__name__}; expected a JAX or NumPy array."
    )
  typed = [o for o in options if _has_dtype(value, o)]
  kinds = [o.__name__.split("[")[0].lower() for o in options]
  if not typed:
    wanted = " or ".join(kinds)
    raise TypeError(f"{name} has dtype {value.dtype}; expected {wanted}.")
  for option in typed:
    bound = _bind(option.dim_str, value.shape, sizes)
    if bound is not None:
      for key in bound.keys() - sizes.keys():
        owners[key] = name
      sizes.update(bound)
      return value
  if len(typed) < len(options) and value.dtype.kind in "iub":
    floats = value.astype(jnp.float32)
    others = tuple(o for o in options if _has_dtype(floats, o))
    if others:
      with contextlib.suppress(ValueError):
        return _match(name, floats, others, sizes, owners)
  got, prefixes = f"shape {value.shape}", [""] * len(options)
  if len(typed) < len(options):  # The expected shape depends on the dtype.
    got, prefixes = f"{got} and dtype {value.dtype}", [f"{k} " for k in kinds]
  wanted = " or ".join(
    prefix + _describe(option.dim_str, sizes, owners)
    for prefix, option in zip(prefixes, options, strict=True)
  )
  raise ValueError(f"{name} has {got}; expected {wanted}.")


def _has_dtype(value: jax.Array, annotation: Any) -> bool:
  dtypes = annotation.dtypes
  return not isinstance(dtypes, list | tuple) or str(value.dtype) in dtypes


def _bind(
  dims: str, shape: tuple[Any, ...], sizes: dict[str, Any]
) -> dict[str, Any] | None:
  """Returns the sizes with which `dims` fits `shape`, else None."""
  tokens = dims.split()
  stars = [i for i, t in enumerate(tokens) if t.startswith(("*", "..."))]
  fixed = len(tokens) - len(stars)
  if len(shape) < fixed or (not stars and len(shape) > fixed):
    return None
  values: list[Any] = list(shape)
  if stars:
    start, width = stars[0], len(shape) - fixed
    values[start : start + width] = [shape[start : start + width]]
  bound = dict(sizes)
  for token, size in zip(tokens, values, strict=True):
    key = token.lstrip("*")
    if key.isdecimal():
      if int(key) != size:
        return None
    elif key not in ("_", "...") and bound.setdefault(key, size) != size:
      return None
  return bound


def _describe(dims: str, sizes: dict[str, Any], owners: dict[str, str]) -> str:
  """Returns a text of the expected shape and the arguments that set it."""
  parts, sources = [], []
  for token in dims.split():
    key = token.lstrip("*")
    size = sizes.get(key, token)
    parts += [str(s) for s in size] if isinstance(size, tuple) else [str(size)]
    if key in sizes and owners[key] not in sources:
      sources.append(owners[key])
  text = f"[{dims}] = ({', '.join(parts)})"
  return text + (f", as in {' and '.join(sources)}" if sources else "")
