"""Checks of arguments, with errors that name them."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from kdjax import methods, ops


def check_objective(name: str, value: Any) -> None:
  """Raises TypeError unless it is an objective."""
  if not isinstance(value, methods.Objective):
    raise TypeError(
      f"{name}: objective is a {type(value).__name__}; expected an Objective, "
      "as `stateless` makes of a loss and `combine` of several."
    )


def check_loss(name: str, loss_fn: Any) -> None:
  """Raises TypeError if it cannot be called as a loss is."""
  wanted = ("params", "state", "frozen", "batch", "key")
  what = f"is a {type(loss_fn).__name__}"
  if callable(loss_fn):
    try:
      signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # compiled, or built in
      return
    what = f"has the parameters {ops.call_signature(signature)}"
    with contextlib.suppress(TypeError):
      signature.bind(*wanted)
      return
  raise TypeError(
    f"{name}: loss_fn {what}; expected a function of ({', '.join(wanted)}), as "
    "pass_loss returns."
  )


def check_views(name: str, views: Any) -> None:
  """Raises TypeError unless there is a name for each view."""
  if not isinstance(views, Mapping):
    raise TypeError(
      f"{name}: views is a {type(views).__name__}; expected a mapping, name -> "
      "(key, batch) -> inputs."
    )


def check_pairs(name: str, metrics: Any, wanted: str) -> None:
  """Raises TypeError unless it maps names to pairs."""
  what = f"is a {type(metrics).__name__}"
  if isinstance(metrics, Mapping):
    odd = {
      k: type(pair).__name__
      for k, pair in metrics.items()
      if not isinstance(pair, tuple | list) or len(pair) != 2
    }
    if not odd:
      return
    what = f"has {odd}"
  raise TypeError(f"{name}: metrics {what}; expected name -> {wanted}.")
