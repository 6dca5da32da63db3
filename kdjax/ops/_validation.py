"""Turns a function's jaxtyping annotations into clear errors.

The annotations of a public function are its contract. Under pytest, beartype
checks them; for users, `validate` reads the same annotations and raises
one message that names the argument, what came and what was expected. All of it
happens on shapes and dtypes, that is at trace time.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

P = ParamSpec("P")
R = TypeVar("R")


def validate(function: Callable[P, R]) -> Callable[P, R]:
  """Checks array arguments against their annotations before the call.

  NumPy arrays and Python numbers become JAX arrays. Dimensions of the same
  name must agree between arguments; a union of annotations is met by any of
  its members.

  Args:
    function: a function whose array parameters carry jaxtyping annotations.

  Returns:
    The function, which raises ValueError for a wrong rank or shape and
    TypeError for something that is no array or has the wrong dtype.
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
  # Of a method with its class, which says whose `__call__` it is.
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
      if isinstance(value, np.ndarray | np.generic | int | float):
        value = bound.arguments[name] = _as_array(value, options)
      try:
        _match(name, value, options, sizes, owners)
      except (TypeError, ValueError) as error:
        raise type(error)(f"{name_of_function}: {error}") from None
    return function(*bound.args, **bound.kwargs)

  return wrapped


def call_signature(signature: inspect.Signature) -> str:
  """Returns the parameters without annotations, as they are called.

  Args:
    signature: of a function.

  Returns:
    The text, such as `(logits, *, temperature=1.0)`.
  """
  bare = [
    parameter.replace(annotation=inspect.Parameter.empty)
    for parameter in signature.parameters.values()
  ]
  return str(inspect.Signature(bare))


def check_positive(name: str, value: Any) -> None:
  """Raises ValueError unless static numbers are finite and above zero.

  Args:
    name: of the argument, for the message.
    value: a number, an array or a sequence of them; traced values pass.

  Returns:
    None.
  """
  numbers = _static_numbers(name, value)
  if numbers is not None and not np.all((numbers > 0) & np.isfinite(numbers)):
    raise ValueError(f"{name} is {value}; expected a finite number above 0.")


def check_range(name: str, value: Any, low: float, high: float) -> None:
  """Raises ValueError unless static numbers lie in [low, high].

  Args:
    name: of the argument, for the message.
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
    name: of the argument, for the message.
    value: the string that came.
    choices: the allowed strings.

  Returns:
    None.
  """
  if value not in choices:
    raise ValueError(f"{name} is {value!r}; expected one of {choices}.")


def check_integer(name: str, value: Any, low: int) -> None:
  """Raises TypeError unless it is an integer, ValueError if it is too small.

  Args:
    name: of the argument, for the message.
    value: the number that came.
    low: the smallest allowed integer.

  Returns:
    None.
  """
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} is {value!r}; expected an integer.")
  if value < low:
    raise ValueError(f"{name} is {value}; expected an integer from {low} on.")


def as_sizes(name: str, sizes: Any, count: int | None = None) -> Any:
  """Returns a tuple of (so many) positive integers, or raises ValueError.

  Args:
    name: of the argument, for the message.
    sizes: the sequence that came.
    count: how many integers are expected; None for any number.

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
  """Returns an entry of a batch, or says what is missing and who needs it.

  Args:
    name: of the argument, for the message.
    values: a mapping, or a sequence for integer keys.
    key: of the entry.

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
    if key in values:  # its own error, of an entry that is read when asked for
      raise
    raise ValueError(
      f"{name} has {list(values)}; expected {key!r} too."
    ) from None


def as_number(
  name: str, value: Any, dtype: Any, *, shape: tuple[int, ...] = ()
) -> jax.Array:
  """Returns a hyper-parameter as an array: a scalar, or one value a row.

  Args:
    name: of the argument, for the message.
    value: a number or an array, possibly traced.
    dtype: of the result.
    shape: that of one value a row; a scalar is always allowed.

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
    name: of the argument, for the message.
    value: a number or an array, possibly traced.
    dtype: of the result.
    shape: that of one value a row; a scalar is always allowed.

  Returns:
    An array of shape `()` or `shape`.
  """
  check_range(name, value, 0.0, 1.0)
  share = as_number(name, value, dtype, shape=shape)
  checkify.debug_check(
    jnp.all((share >= 0) & (share <= 1)),
    f"{name} must lie in [0, 1]; got " + "{}",
    share,
  )
  return share


def _static_numbers(name: str, value: Any) -> np.ndarray | None:
  """Returns the numbers if they are known at trace time without a transfer."""
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


def _as_array(value: Any, options: tuple[Any, ...]) -> jax.Array:
  """Returns a JAX array; a Python integer may stand for a float."""
  array = jnp.asarray(value)
  if isinstance(value, int) and not any(_has_dtype(array, o) for o in options):
    return jnp.asarray(float(value))
  return array


def _array_annotations(annotation: Any) -> tuple[Any, ...]:
  """Returns the jaxtyping members of an annotation."""
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
) -> None:
  """Binds the dimensions of one argument or raises."""
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
      return
  what, words = f"shape {value.shape}", [""] * len(options)
  if len(typed) < len(options):  # another dtype would be read otherwise
    what, words = f"{what} and dtype {value.dtype}", [f"{k} " for k in kinds]
  wanted = " or ".join(
    word + _describe(option.dim_str, sizes, owners)
    for word, option in zip(words, options, strict=True)
  )
  raise ValueError(f"{name} has {what}; expected {wanted}.")


def _has_dtype(value: jax.Array, annotation: Any) -> bool:
  dtypes = annotation.dtypes
  return not isinstance(dtypes, list | tuple) or str(value.dtype) in dtypes


def _bind(
  dims: str, shape: tuple[int, ...], sizes: dict[str, Any]
) -> dict[str, Any] | None:
  """Returns the sizes that make `dims` fit `shape`, None if none do."""
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
  """Writes the expected shape and which arguments set it."""
  parts, sources = [], []
  for token in dims.split():
    key = token.lstrip("*")
    size = sizes.get(key, token)
    parts += [str(s) for s in size] if isinstance(size, tuple) else [str(size)]
    if key in sizes and owners[key] not in sources:
      sources.append(owners[key])
  text = f"[{dims}] = ({', '.join(parts)})"
  return text + (f", as in {' and '.join(sources)}" if sources else "")
