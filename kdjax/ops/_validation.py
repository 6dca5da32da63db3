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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdjax.ops._debug_checks import debug_check
from kdjax.ops._explicit_axes import axes_of_dims
from kdjax.ops._explicit_axes import explicit_mesh
from kdjax.ops._explicit_axes import in_auto_axes
from kdjax.ops._explicit_axes import specs_of_result
from kdjax.ops._export import is_symbolic

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
    if name not in specs and (check := _check_of(parameter))
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
      bound.arguments[name] = _of_variable(value)
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


def check_positive(name: str, value: Any) -> None:
  """Raises ValueError unless static numbers are finite and above 0.

  Args:
    name: the name of the argument, for the error message.
    value: a number, an array or a sequence of them; traced values pass.

  Returns:
    None.
  """
  numbers = _static_numbers(name, value)
  if numbers is not None and not np.all((numbers > 0) & np.isfinite(numbers)):
    raise ValueError(f"{name} is {value}; expected a finite number above 0.")


def check_range(name: str, value: Any, low: float, high: float) -> None:
  """Raises ValueError unless static numbers are in [low, high].

  Args:
    name: the name of the argument, for the error message.
    value: a number, an array or a sequence of them; traced values pass.
    low: the smallest allowed number.
    high: the largest allowed number.

  Returns:
    None.
  """
  numbers = _static_numbers(name, value)
  if numbers is not None and not np.all((numbers >= low) & (numbers <= high)):
    raise ValueError(
      f"{name} is {value}; expected a number in [{low}, {high}]."
    )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a string is one of the choices.

  Args:
    name: the name of the argument, for the error message.
    value: the string.
    choices: the allowed strings.

  Returns:
    None.
  """
  if value not in choices:
    raise ValueError(f"{name} is {value!r}; expected one of {choices}.")


def check_integer(name: str, value: Any, low: int) -> None:
  """Raises TypeError unless a number is an integer, ValueError if below `low`.

  Args:
    name: the name of the argument, for the error message.
    value: the number.
    low: the smallest allowed integer.

  Returns:
    None.
  """
  if is_symbolic(value):
    return
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} is {value!r}; expected an integer.")
  if value < low:
    raise ValueError(f"{name} is {value}; expected an integer from {low} on.")


def as_sizes(name: str, sizes: Any, count: int | None = None) -> Any:
  """Returns a tuple of positive integers, or raises ValueError.

  Args:
    name: the name of the argument, for the error message.
    sizes: the sequence of integers.
    count: the expected number of integers; None for any number.

  Returns:
    The tuple.
  """
  values: tuple[Any, ...] = (None,)
  if isinstance(sizes, Iterable):
    values = tuple(sizes)
  integers = all(isinstance(x, int | np.integer) and x > 0 for x in values)
  if not integers or count not in (None, len(values)):
    wanted = "a sequence of" if count is None else count
    raise ValueError(
      f"{name} is {sizes!r}; expected {wanted} positive integers."
    )
  return values


def get_entry(name: str, values: Any, key: Any) -> Any:
  """Returns an entry of a batch, or raises an error that names the key.

  Args:
    name: the name of the argument, for the error message.
    values: a mapping, or a sequence for integer keys.
    key: the key of the entry.

  Returns:
    The entry.
  """
  try:
    return values[key]
  except (KeyError, IndexError, TypeError):
    if not isinstance(values, Mapping):
      raise TypeError(
        f"{name} is a {type(values).__name__}; expected a mapping with {key!r}."
      ) from None
    if key in values:  # The entry exists: reading it raised the error.
      raise
    raise ValueError(
      f"{name} has {list(values)}; expected {key!r} too."
    ) from None


def as_number(
  name: str, value: Any, dtype: Any, *, shape: tuple[int, ...] = ()
) -> jax.Array:
  """Returns a hyper-parameter as an array: a scalar, or one value a row.

  Args:
    name: the name of the argument, for the error message.
    value: a number or an array. May be traced.
    dtype: the dtype of the result.
    shape: the shape of one value a row; a scalar is always allowed.

  Returns:
    An array of shape `()` or `shape`.
  """
  _static_numbers(name, value)
  number = jnp.asarray(value, dtype)
  if number.shape not in ((), shape):
    wanted = f"a scalar or one value a row, {shape}" if shape else "a scalar"
    raise ValueError(f"{name} has shape {number.shape}; expected {wanted}.")
  return number


def as_fraction(
  name: str, value: Any, dtype: Any, *, shape: tuple[int, ...] = ()
) -> jax.Array:
  """Returns a weight in [0, 1] as an array: a scalar, or one value a row.

  Args:
    name: the name of the argument, for the error message.
    value: a number or an array. May be traced.
    dtype: the dtype of the result.
    shape: the shape of one value a row; a scalar is always allowed.

  Returns:
    An array of shape `()` or `shape`.
  """
  check_range(name, value, 0.0, 1.0)
  fraction = as_number(name, value, dtype, shape=shape)
  debug_check(
    lambda: (fraction >= 0) & (fraction <= 1),
    f"{name} must lie in [0, 1]; got " + "{}",
    fraction,
  )
  return fraction


def _static_numbers(name: str, value: Any) -> np.ndarray | None:
  """Returns numbers that are known at trace time, else None."""
  if isinstance(value, jax.Array):
    return None
  if isinstance(value, list | tuple):
    parts = [_static_numbers(name, x) for x in value]
    known = [x.ravel() for x in parts if x is not None]
    return np.concatenate(known) if known else None
  if isinstance(value, int | float | np.number | np.ndarray):
    numbers = np.asarray(value)
    if numbers.dtype.kind in "iuf" or numbers.dtype.name == "bfloat16":
      return numbers.astype(np.float64)
  raise TypeError(f"{name} is {value!r}; expected a number or an array.")


class _Check(NamedTuple):
  """What an argument that is no array may be."""

  accepts: Callable[[Any], bool]
  wanted: str


def _check_of(parameter: inspect.Parameter) -> _Check | None:
  """Returns the check of a number, a sequence of arrays or a state."""
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
    return _Check(unless_none(_is_number), "a number or an array")
  if len(members) != 1:
    return None
  (only,) = members
  if typing.get_origin(only) is Sequence:
    return _Check(
      unless_none(lambda x: hasattr(x, "__len__") and not isinstance(x, str)),
      "a sequence",
    )
  fields = getattr(only, "_fields", None)
  if fields:
    return _Check(
      unless_none(lambda x: all(hasattr(x, field) for field in fields)),
      f"a {only.__name__}",
    )
  return None


_NUMBERS = set(typing.get_args(ArrayLike))


def _is_number(value: Any) -> bool:
  kinds = jax.Array | np.ndarray | np.generic | bool | int | float | complex
  return isinstance(value, kinds) or hasattr(value, "__jax_array__")


def _of_variable(value: Any) -> Any:
  """Returns the array of a variable, such as `nnx.Param`."""
  if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):
    return value.__jax_array__()
  return value


def _is_empty(value: Any) -> bool:
  return isinstance(value, jax.Array) and not value.size


def _as_array(value: Any, options: tuple[Any, ...]) -> Any:
  """Returns a JAX array, of floats for a Python integer if no option is int.

  What is no array stays as it is. A mask of numbers becomes one of truths.
  """
  value = _of_variable(value)
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
