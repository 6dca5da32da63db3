"""Checks of hyper-parameters and options by value, with one form of error."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.ops.devices._export import is_symbolic
from kdjax.ops.validation._debug_checks import debug_check


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


def padding_explains(classes: int, rows: int) -> bool:
  """Whether padding explains that an array has more rows than classes.

  Vocabularies are padded to round numbers: by at most 64 rows, or by 1 % of the
  classes, as those of Qwen (151,936 and 152,064 rows). A larger difference is
  that of two tokenizers, or of hidden states that were taken for logits.

  Args:
    classes: the number of classes.
    rows: the number of rows, which is not below it.

  Returns:
    True if there are at most max(64, classes / 100) more rows than classes.

  Raises:
    TypeError: if a number is not an integer.
    ValueError: if it is below 1.

  Examples:
    >>> padding_explains(50_257, 50_304), padding_explains(32_000, 50_257)
    (True, False)
  """
  check_integer("padding_explains: classes", classes, 1)
  check_integer("padding_explains: rows", rows, 1)
  return rows - classes <= max(64, classes // 100)
