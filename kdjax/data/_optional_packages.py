"""Imports of packages that kdjax installs only with an extra."""

import importlib
from typing import Any


def require(module: str) -> Any:
  """Imports a module of the `experiments` extra.

  Args:
    module: the full name of the module.

  Returns:
    The module.

  Raises:
    ImportError: if the module, or a module that it imports, is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f'{module} is needed here: pip install "kdjax[experiments]" ({error}).'
    ) from error
