"""Objectives of the library's methods, for experiments that add their own."""

from typing import Any

from kdjax import methods


def own_objective(name: str, **options: Any) -> methods.Objective:
  """The objective of a method without labels and soft targets beside it.

  A network without logits has neither.
  """
  make: Any = methods.describe(name).make
  made = make(**options)
  return getattr(made, "objective", made)
