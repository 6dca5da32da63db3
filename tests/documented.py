"""A valid call of every public function: the example in its docstring.

`recorded` runs an example up to the first call of the function and keeps the
arguments, so that a law can ask all public functions without a list of them.
`with_rows` repeats the examples of a batch, which it finds by the names of
dimensions in the annotations.
"""

import contextlib
import dataclasses
import doctest
import functools
import importlib
import inspect
import io
import pathlib
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kdjax

ROOT = pathlib.Path(kdjax.__file__).parent
# Areas of functions from arrays to arrays.
AREAS = sorted(
  {path.parent.name for path in ROOT.glob("*/__init__.py")}
  - {"data", "methods", "nets", "training"}
)
# Dimensions whose entries are examples.
EXAMPLES = {
  "batch",
  "*batch",
  "*tokens",
  "source",
  "target",
  "rows",
  "labeled",
  "unlabeled",
  "queries",
  "query",
  "support",
  "source_rows",
  "target_rows",
}


class _Called(BaseException):
  """Ends an example at the call."""


@dataclasses.dataclass(frozen=True)
class Call:
  """A function and the arguments of a valid call."""

  area: str
  name: str
  function: Callable[..., Any]
  arguments: dict[str, Any]  # by parameter name, without defaults

  def __call__(self, **changed: Any) -> Any:
    """Calls the function with some arguments changed."""
    arguments = {**self.arguments, **changed}
    args, kwargs = [], {}
    for name, parameter in self.parameters.items():
      if name not in arguments:
        continue
      if parameter.kind is parameter.VAR_POSITIONAL:
        args += arguments[name]
      elif parameter.kind is parameter.VAR_KEYWORD:
        kwargs |= arguments[name]
      elif parameter.kind is parameter.KEYWORD_ONLY:
        kwargs[name] = arguments[name]
      else:
        args.append(arguments[name])
    return self.function(*args, **kwargs)

  @property
  def parameters(self) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(self.function).parameters)


def public() -> list[tuple[str, str, Callable[..., Any]]]:
  """Area, name and function of what the areas list, without classes."""
  found = []
  for area in AREAS:
    module = importlib.import_module(f"kdjax.{area}")
    for name in module.__all__:
      value = getattr(module, name)
      if inspect.isfunction(value):
        found.append((area, name, value))
  return found


@functools.cache
def recorded() -> dict[str, Call]:
  """Calls by `area.name`, of functions whose docstring has an example."""
  names = [f"{area}.{name}" for area, name, _ in public()]
  calls = {name: recorded_call(name) for name in names}
  return {name: call for name, call in calls.items() if call is not None}


@functools.cache
def recorded_call(name: str) -> Call | None:
  """The call of `area.name`; None if its docstring has no example of it."""
  area, _, name = name.partition(".")
  function = getattr(importlib.import_module(f"kdjax.{area}"), name)
  arguments = _first_call(name, function)
  if arguments is None:
    return None
  return Call(area, name, function, arguments)


def _first_call(name, function):
  examples = doctest.DocTestParser().get_examples(function.__doc__ or "")
  kept = []

  def recorder(*args, **kwargs):
    kept.append(inspect.signature(function).bind(*args, **kwargs).arguments)
    raise _Called

  names = vars(sys.modules[function.__module__])
  scope = {**names, "jax": jax, "jnp": jnp, name: recorder}
  with (
    contextlib.suppress(_Called),
    contextlib.redirect_stdout(io.StringIO()),
  ):
    for example in examples:
      exec(compile(example.source, f"<{name}>", "single"), scope)
  if not kept or any(
    isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(kept[0])
  ):
    return None
  return kept[0]


def with_rows(call: Call, rows: int) -> Call:
  """The call with at least that many examples in every batch.

  Examples are repeated, floats with a change of some percent. A call that does
  not allow it stays as it is.
  """
  changed = {
    name: _more_rows(call.parameters[name].annotation, value, rows)
    for name, value in call.arguments.items()
  }
  return dataclasses.replace(call, arguments=changed)


def _more_rows(annotation, value, rows):
  if not is_array(value):
    return value
  for member in _members(annotation):
    text = getattr(member, "dim_str", None)
    axes = None if text is None else _example_axes(text, value.ndim)
    if axes:
      for axis in axes:
        value = _repeat(value, axis, rows)
      break
  return value


def _members(annotation):
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return typing.get_args(annotation)
  return (annotation,)


def _example_axes(text, ndim):
  """Axes of examples in an array of that rank, None if the rank differs."""
  tokens = text.split()
  stars = [i for i, t in enumerate(tokens) if t.startswith(("*", "..."))]
  width = ndim - (len(tokens) - len(stars))
  if width < 0 or (not stars and width):
    return None
  axes, axis = [], 0
  for i, token in enumerate(tokens):
    size = width if i in stars else 1
    # "queries" also counts the tokens of an attention map, which come later.
    if token in EXAMPLES and size and (token != "queries" or not i):
      axes.append(axis)
    axis += size
  return axes


def _repeat(value, axis, rows):
  count = -(-rows // value.shape[axis]) if value.shape[axis] else 1
  if count == 1:
    return value
  tiled = np.concatenate([np.asarray(value)] * count, axis)
  if is_float(value):
    rng = np.random.default_rng(2024)
    noise = 1 + 0.05 * rng.uniform(-1, 1, tiled.shape)
    tiled = (tiled * noise).astype(tiled.dtype)
  return jnp.asarray(tiled)


def is_array(value: Any) -> bool:
  """Whether a value is a JAX or NumPy array, keys of random numbers apart."""
  return isinstance(value, jax.Array | np.ndarray) and not (
    jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
  )


def is_float(value: Any) -> bool:
  """Whether a value is an array of floats."""
  return is_array(value) and jnp.issubdtype(value.dtype, jnp.floating)


def float_leaves(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
  """Paths of the float arrays in the arguments, with the arrays."""
  return [
    (path, leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments)
    if is_float(leaf)
  ]
