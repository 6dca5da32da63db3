"""The folder of a run: its settings, its metrics, its checkpoints."""

import json
import math
import os
import pathlib
import signal
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

from kdjax.training.loop._checkpoints import Checkpoints


class RunFolder:
  """Folder of a run: `config.json`, `metrics.jsonl` and `checkpoints`.

  Args:
    path: the folder, made if missing; None keeps the lines in memory alone.
    settings: those that a resumed run shares with the first.
    notes: further entries of `config.json`.
    keep: how many checkpoints stay.
    resume: whether to go on where the folder has a checkpoint.

  Attributes:
    lines: of `metrics.jsonl`.

  Raises:
    ValueError: if the folder holds a run of other settings, or any without
      `resume`.
    OSError: if the folder cannot be made.
  """

  def __init__(
    self,
    path: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
    *,
    keep: int,
    resume: bool,
  ):
    self.lines: list[dict[str, Any]] = []
    self.path = None if path is None else pathlib.Path(path)
    self._checkpoints = None
    if self.path is None:
      return
    _make_folder(self.path)
    self._metrics = self.path / "metrics.jsonl"
    config = self.path / "config.json"
    if config.exists():
      _check_same(self.path, config, settings, resume)
    else:
      text = json.dumps({"settings": settings, **notes}, indent=2)
      _write(config, text + "\n")
    self._checkpoints = Checkpoints(self.path / "checkpoints", keep=keep)

  def restore(self, state: Any) -> tuple[int, Any, Any]:
    """Returns the step, the state and the position of the last checkpoint.

    Lines of `metrics.jsonl` beyond it are taken back. Without a checkpoint it
    is step 0 and the state that is given.
    """
    restored = None
    if self._checkpoints is not None:
      restored = self._checkpoints.restore(state)
    step, state, position = restored or (0, state, {})
    if self.path is not None:
      lines = _read_lines(self._metrics)
      self.lines = [line for line in lines if line["step"] <= step]
      if self.lines or self._metrics.exists():
        _write(self._metrics, "".join(map(_as_text, self.lines)))
    return step, state, position

  def log(self, line: Mapping[str, Any]) -> None:
    """Adds a line; a number that is not finite becomes null."""
    line = {k: _finite(v) for k, v in line.items()}
    self.lines.append(line)
    if self.path is not None:
      with self._metrics.open("a") as file:
        file.write(_as_text(line))

  def save(self, step: int, state: Any, position: Any) -> None:
    """Saves a checkpoint."""
    if self._checkpoints is not None:
      self._checkpoints.save(step, state, position)

  def close(self) -> None:
    """Waits until all checkpoints are on disk."""
    if self._checkpoints is not None:
      self._checkpoints.close()

  def __enter__(self) -> "RunFolder":
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()


class Interruption:
  """Interruption: notes Ctrl-C and SIGTERM, for the loop to stop by itself.

  A second signal of the same kind acts at once. Signals are left alone outside
  the main thread, where Python handles none.

  Args:
    wanted: whether to note them at all.

  Attributes:
    signal: the signal that came, or None.
  """

  _SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self, wanted: bool):
    main = threading.current_thread() is threading.main_thread()
    self._wanted = wanted and main
    self._before: dict[int, Any] = {}
    self.signal: int | None = None

  def __enter__(self) -> "Interruption":
    for number in self._SIGNALS if self._wanted else ():
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *error: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self.signal = number
    signal.signal(number, self._before[number])

  def stop(self, message: str) -> None:
    """Ends the run with one line, as the signal would have ended it."""
    if self.signal == signal.SIGTERM:
      print(message, file=sys.stderr)
      raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt(message)


def _make_folder(path: pathlib.Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise FileExistsError(
      f"fit: workdir is {str(path)!r}, where a file is in the way; expected a "
      "folder, which is made if there is none."
    ) from None
  except OSError as error:
    raise type(error)(
      f"fit: workdir {str(path)!r} cannot be made ({error.strerror}); expected "
      "a folder that may be written."
    ) from None


def _check_same(
  path: pathlib.Path,
  config: pathlib.Path,
  settings: Mapping[str, Any],
  resume: bool,
) -> None:
  """Raises ValueError unless the folder's run may go on with the settings."""
  if not resume:
    raise ValueError(
      f"fit: workdir {str(path)!r} holds a run already; expected resume=True "
      "to go on with it, or another folder."
    )
  try:
    before = json.loads(config.read_text())["settings"]
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f"fit: workdir {str(path)!r} holds a config.json that fit did not write; "
      "expected another folder."
    ) from None
  # As JSON holds them: tuples are lists there.
  old, new = _flat(before), _flat(json.loads(json.dumps(settings)))
  for name in [*new, *old]:
    if old.get(name) != new.get(name):
      raise ValueError(
        f"fit: workdir {str(path)!r} holds a run with {name} = "
        f"{old.get(name)}, and this one has {new.get(name)}; expected the same "
        "settings, or another folder."
      )


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
  if not isinstance(tree, Mapping):
    return {name: tree}
  flat = {}
  for key, value in tree.items():
    inner = f"{name}.{key}" if name and key else name or key
    flat |= _flat(value, inner)
  return flat


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a file whose last may be torn."""
  if not path.exists():
    return []
  lines = []
  for text in path.read_text().splitlines():
    try:
      line = json.loads(text)
    except ValueError:
      break
    lines.append(line)
  return lines


def _as_text(line: Mapping[str, Any]) -> str:
  return json.dumps(line, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _write(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  new = path.with_name(path.name + ".new")
  new.write_text(text)
  os.replace(new, path)
