"""Files of JSON: written whole or not at all, and read with a clear error."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdjax.training.loop._run_errors import RunError


def write_json(
  path: str | os.PathLike[str], content: Any, *, indent: int | None = None
) -> None:
  """Writes a JSON file whole or not at all.

  Args:
    path: of the file; its folder is made if missing.
    content: values of JSON, and arrays. Numbers that are not finite become
      null, since JSON has none.
    indent: of the text.

  Returns:
    None.

  Raises:
    OSError: if the file cannot be written; the file before stays.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   write_json(f"{folder}/a.json", {"loss": [float("nan"), 0.5]})
    ...   read_json(f"{folder}/a.json")
    {'loss': [None, 0.5]}

  References:
    `RunFolder`.
  """
  write_text(pathlib.Path(path), as_json(content, indent=indent) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON object or list that a run has written.

  Args:
    path: of the file.

  Returns:
    Its content.

  Raises:
    RunError: if the file is empty, cut off or something else.
    OSError: if it cannot be read.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   write_json(f"{folder}/a.json", [1, 2])
    ...   read_json(f"{folder}/a.json")
    [1, 2]

  References:
    `RunFolder`.
  """
  text = pathlib.Path(path).read_text(errors="replace")
  try:
    content = json.loads(text)
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict | list):
    raise damaged(path, text)
  return content


def damaged(path: str | os.PathLike[str], text: str) -> RunError:
  """The error of a file that no run has written so."""
  found = f"starts with {text[:20]!r}" if text.strip() else "is empty"
  return RunError(
    f"{str(path)!r} {found}; expected the JSON that a run writes. Put back a "
    "copy of the file, or delete it to compute it again."
  )


def as_json(content: Any, *, indent: int | None = None) -> str:
  """Returns valid JSON: null for numbers that are not finite."""
  return json.dumps(_valid(content), allow_nan=False, indent=indent)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(path.name + ".new")
  try:
    new.write_text(text)
    os.replace(new, path)
  except OSError:
    with contextlib.suppress(OSError):
      new.unlink(missing_ok=True)
    raise


def _valid(content: Any) -> Any:
  if isinstance(content, jax.Array | np.ndarray | np.generic):
    content = np.asarray(content).tolist()
  if isinstance(content, float):
    return content if math.isfinite(content) else None
  if isinstance(content, Mapping):
    return {k: _valid(v) for k, v in content.items()}
  if isinstance(content, list | tuple):
    return [_valid(x) for x in content]
  return content
