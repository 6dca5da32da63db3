"""The folder of any run: its settings, its rows of metrics, its lock."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax

from kdjax.training.loop._checkpoints import os_error
from kdjax.training.loop._json_files import (
  as_json,
  damaged,
  read_json,
  write_text,
)
from kdjax.training.loop._lock import FolderLock
from kdjax.training.loop._run_errors import RunError

_CONFIG, _METRICS = "config.json", "metrics.jsonl"


class RunFolder:
  """Run folder: `config.json`, `metrics.jsonl`, and one process at a time.

  Files are written whole or not at all, rows are appended. Numbers that are not
  finite become null, since JSON has none. Errors are one line: a folder that
  cannot be written or is full, and files that no run has written.

  Args:
    path: the folder, made if missing.
    name: of the folder, for errors.
    needs: the names that each row of `metrics.jsonl` has; `"step"` is an
      integer.

  Attributes:
    path: the folder.

  Raises:
    RunError: if another run has the folder.
    OSError: if the folder cannot be made or written.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path, RunFolder(path) as folder:
    ...   folder.write_config({"seed": 0})
    ...   folder.log({"step": 1, "loss": float("nan")})
    ...   folder.log({"step": 2, "loss": 0.5})
    ...   rows = folder.keep_rows(lambda row: row["step"] < 2)
    ...   folder.read_config(), rows
    ({'seed': 0}, [{'step': 1, 'loss': None}])

  References:
    `fit`.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    name: str = "workdir",
    needs: Sequence[str] = ("step",),
  ):
    self.path = pathlib.Path(path)
    self._name = name
    self._needs = tuple(needs)
    self._lock = None
    # The first process of a run on several hosts writes for all.
    self._writes = not (
      jax.distributed.is_initialized() and jax.process_index()
    )
    with self._explained(""):
      try:
        self.path.mkdir(parents=True, exist_ok=True)
      except (FileExistsError, NotADirectoryError):
        raise FileExistsError(
          f"{name} is {str(self.path)!r}, where a file is in the way; expected "
          "a folder that can be written, which is made if there is none."
        ) from None
      if self._writes:
        self._lock = FolderLock(self.path, name)

  def read_config(self) -> dict[str, Any] | None:
    """Reads `config.json`.

    Returns:
      Its content; None if there is none.

    Raises:
      RunError: if it holds no JSON object.
    """
    file = self.path / _CONFIG
    with self._explained(_CONFIG):
      if not os.path.lexists(file):
        return None
      content = read_json(file)
    if not isinstance(content, dict):
      raise damaged(file, str(content))
    return content

  def write_config(self, config: Mapping[str, Any]) -> None:
    """Writes `config.json`."""
    self.write(_CONFIG, as_json(config, indent=2) + "\n")

  def write(self, name: str, text: str) -> None:
    """Writes a file whole or not at all.

    Args:
      name: of the file, relative to the folder.
      text: its content.
    """
    if self._writes:
      with self._explained(name):
        write_text(self.path / name, text)

  def log(self, row: Mapping[str, Any]) -> None:
    """Appends a row to `metrics.jsonl`.

    Args:
      row: values of JSON; arrays become numbers or lists.
    """
    if not self._writes:
      return
    with self._explained(_METRICS):
      _append(self.path / _METRICS, as_json(row) + "\n")

  def read_rows(self) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`.

    Returns:
      Its rows. A last line that was not written to its end is left out.

    Raises:
      RunError: if another line is no row.
    """
    file = self.path / _METRICS
    with self._explained(_METRICS):
      if not os.path.lexists(file):
        return []
      text = file.read_text(errors="replace")
    rows = []
    # Not splitlines, which also splits at characters within a damaged line.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
      if not line:
        continue
      row = _as_row(line, self._needs)
      if row is not None:
        rows.append(row)
      elif number < len(lines):
        raise RunError(
          f"{self._name} {str(self.path)!r}: line {number} of {_METRICS} is "
          f"{_shortened(line)!r}; expected a JSON object with "
          f"{' and '.join(self._needs)}, as a run writes. Correct or delete "
          "the line, or give another folder."
        )
    return rows

  def keep_rows(
    self, keep: Callable[[dict[str, Any]], bool]
  ) -> list[dict[str, Any]]:
    """Takes back the rows that a resumed run will write again.

    Args:
      keep: whether a row stays.

    Returns:
      The rows that stay.
    """
    rows = self.read_rows()
    kept = [row for row in rows if keep(row)]
    if (self.path / _METRICS).exists():
      self.write(_METRICS, "".join(as_json(row) + "\n" for row in kept))
    return kept

  def close(self) -> None:
    """Gives the folder back to other runs."""
    if self._lock is not None:
      self._lock.release()

  def __enter__(self) -> "RunFolder":
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()

  @contextlib.contextmanager
  def _explained(self, file: str) -> Generator[None]:
    """Turns errors of the file system into one line."""
    try:
      yield
    except OSError as error:
      if error.errno is None:
        raise
      what = f"{file} in " if file else ""
      raise os_error(
        error.errno,
        f"{self._name}: {what}{str(self.path)!r} cannot be used: "
        f"{os.strerror(error.errno)}; expected a folder that can be written, "
        "with room. What was written before is kept.",
      ) from None


def _as_row(line: str, needs: Sequence[str]) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or any(name not in row for name in needs):
    return None
  step = row.get("step", 0)
  whole = isinstance(step, int) and not isinstance(step, bool)
  return row if whole else None


def _shortened(text: str) -> str:
  return text if len(text) <= 60 else f"{text[:57]}..."


def _append(path: pathlib.Path, line: str) -> None:
  """Appends a line whole or not at all, in place of one that is torn."""
  with path.open("ab+", buffering=0) as file:
    size = file.tell()
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
      size = path.read_bytes().rfind(b"\n") + 1
      file.truncate(size)
    rest = line.encode()
    try:
      while rest:
        rest = rest[file.write(rest) :]
    except OSError:
      with contextlib.suppress(OSError):
        file.truncate(size)
      raise
