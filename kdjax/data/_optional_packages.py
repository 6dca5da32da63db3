"""Imports what the bare package does not install, or says how to get it."""

import importlib
from typing import Any


def require(module: str) -> Any:
  """Imports a module of the `experiments` extra when it is first needed.

  Args:
    module: its full name.

  Returns:
    The module.

  Raises:
    ImportError: if it, or something it imports, is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f'{module} is needed here: pip install "kdjax[experiments]" ({error}).'
    ) from error
