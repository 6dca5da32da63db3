"""Support of `jax.export`: types that it can serialize, and symbolic sizes."""

import contextlib
import dataclasses
import json
from typing import Any, TypeVar

import jax.export

Class = TypeVar("Class", bound=type)


def exportable(cls: Class) -> Class:
  """Lets `jax.export` serialize programs that take or return this type.

  A decorator for the types of arguments and results of public functions.

  Args:
    cls: a `NamedTuple`, or a dataclass that is registered as a pytree, whose
      static fields are numbers, strings, booleans or None.

  Returns:
    The same class.
  """
  _, area, *_ = cls.__module__.split(".")
  name = f"kdjax.{area}.{cls.__qualname__}"
  # The name exists if a module is loaded twice, as test runners do.
  with contextlib.suppress(ValueError):
    if dataclasses.is_dataclass(cls):
      jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=name,
        serialize_auxdata=lambda values: json.dumps(values).encode(),
        deserialize_auxdata=lambda text: tuple(json.loads(text)),
      )
    else:
      jax.export.register_namedtuple_serialization(cls, serialized_name=name)
  return cls


def is_symbolic(size: Any) -> bool:
  """Returns whether the size of an axis is unknown until a program runs.

  `jax.export` traces programs with such sizes. They cannot be compared with
  numbers, so the code must choose a form that is right for all sizes.

  Args:
    size: an entry of a shape.

  Returns:
    A bool.
  """
  return jax.export.is_symbolic_dim(size)
