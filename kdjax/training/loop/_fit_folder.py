"""The folder of a call of `fit`: its settings, metrics and checkpoints."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from kdjax.training.loop._checkpoints import Checkpoints
from kdjax.training.loop._json_files import as_json
from kdjax.training.loop._run_errors import RunError
from kdjax.training.loop._run_folder import RunFolder


class FitFolder:
  """Folder of `fit`: a run folder and its `checkpoints`.

  Args:
    path: the folder, made if missing; None keeps the lines in memory alone.
    settings: those that a resumed run shares with the first.
    notes: further entries of `config.json`.
    keep: how many checkpoints stay.
    resume: whether to go on where the folder has a checkpoint.

  Attributes:
    lines: of `metrics.jsonl`.
    checkpoints: of the folder, if there is one.
    saved: the step of the last checkpoint.

  Raises:
    RunError: if the folder holds a run of other settings, or any without
      `resume`; if its files are damaged, or another process has it.
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
    self.saved = 0
    self._folder = None
    self.checkpoints: Checkpoints | None = None
    if path is None:
      return
    self._folder = RunFolder(path, name="fit: workdir")
    try:
      before = self._folder.read_config()
      if jax.process_count() > 1:
        # The first process writes when all have seen that there was none.
        multihost_utils.sync_global_devices("config.json")
      if before is None:
        config = {"settings": settings, **notes}
        self._folder.write_config(config)
      else:
        _check_same(str(path), before, settings, resume)
      self.checkpoints = Checkpoints(
        self._folder.path / "checkpoints", keep=keep
      )
    except BaseException:
      self._folder.close()
      raise

  def restore(self, state: Any) -> tuple[int, Any, Any]:
    """Returns the step, the state and the position of the last checkpoint.

    Lines of `metrics.jsonl` beyond it are taken back. Without a checkpoint it
    is step 0 and the state that is given.
    """
    restored = None
    if self.checkpoints is not None:
      restored = self.checkpoints.restore(state)
    step, state, position = restored or (0, state, {})
    if self._folder is not None:
      self.lines = self._folder.keep_rows(lambda row: row["step"] <= step)
    self.saved = step
    return step, state, position

  def log(self, line: Mapping[str, Any]) -> None:
    """Adds a line; a number that is not finite becomes null."""
    self.lines.append(json.loads(as_json(line)))
    if self._folder is not None:
      self._folder.log(line)

  def save(self, step: int, state: Any, position: Any) -> None:
    """Saves a checkpoint."""
    if self.checkpoints is not None:
      self.checkpoints.save(step, state, position)
    self.saved = step

  def close(self) -> None:
    """Waits until all checkpoints are on disk; gives the folder back."""
    try:
      if self.checkpoints is not None:
        self.checkpoints.close()
    finally:
      if self._folder is not None:
        self._folder.close()

  def __enter__(self) -> "FitFolder":
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()


def _check_same(
  path: str,
  config: Mapping[str, Any],
  settings: Mapping[str, Any],
  resume: bool,
) -> None:
  """Raises RunError unless the folder's run may go on with the settings."""
  if not resume:
    raise RunError(
      f"fit: workdir {path!r} holds a run already; expected resume=True "
      "to go on with it, or another folder."
    )
  if not isinstance(config.get("settings"), Mapping):
    raise RunError(
      f"fit: workdir {path!r} holds a config.json that fit did not write; "
      "expected another folder."
    )
  # As JSON holds them: tuples are lists there.
  old, new = _flat(config["settings"]), _flat(json.loads(as_json(settings)))
  for name in [*new, *old]:
    if old.get(name) != new.get(name):
      raise RunError(
        f"fit: workdir {path!r} holds a run with {name} = "
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
