"""The folder of a run: flags, metrics, cells, report, plots and checkpoints."""

import dataclasses
import json
import os
import pathlib
import platform
import shutil
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console

import kdjax
from experiments.frame import commands, tables
from kdjax import training

# Flags that say where and how a run computes, not what.
FREE_FLAGS = (
  *("data_dir", "devices", "nan", "overwrite", "parallel", "resume"),
  "workdir",
)
# What a run writes, and --overwrite deletes.
WRITTEN = (
  *("config.json", "metrics.jsonl", "report.md", "results.csv"),
  *("results.json", "*.png", "cells", "checkpoints", "students", "teachers"),
)


class RunFolder:
  """Run folder: config.json, metrics.jsonl, report.md, plots and checkpoints.

  Args:
    config: a dataclass with the fields of `commands.Flags`.
    free: further flags that may change when a run is resumed.

  Raises:
    ValueError: if the folder has a run and neither --resume nor --overwrite is
      given, if there is no run to resume, if it was made by another experiment
      or with flags that change its results, if another process has it, or if
      its files are damaged.
    OSError: if it cannot be made or written.
  """

  def __init__(self, config: Any, *, free: Sequence[str] = ()):
    self._begin = time.monotonic()
    self.path = pathlib.Path(config.workdir)
    # The stages whose numbers are not finite; the report names them.
    self.diverged: list[str] = []
    self._writing = threading.Lock()  # cells may run at the same time
    flags = {"experiment": commands.experiment_of(config)}
    flags |= json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if config.resume and config.overwrite:
      raise ValueError("--resume and --overwrite exclude each other; give one.")
    exists = os.path.lexists(self.path / "config.json")
    if config.resume and not exists:
      raise ValueError(
        f"{self.path} has no run to resume. Leave out --resume, or give the "
        "--workdir of one."
      )
    self._files = _open(self.path)
    if config.resume:
      before = self._files.read_config() or {}
      _check_same_flags(self.path, before, flags, (*FREE_FLAGS, *free))
    elif exists and not config.overwrite:
      raise ValueError(
        f"{self.path} has a run already. Go on with it by --resume, replace it "
        "by --overwrite, or give another --workdir."
      )
    elif exists:
      _delete(self.path)
    self._files.write_config(flags)

  def log(self, **row: Any) -> None:
    """Appends one row to metrics.jsonl; null stands for NaN and infinity."""
    with self._writing:
      self._files.log(row)

  def rewind(self, stage: str, step: int) -> None:
    """Drops the later rows of a stage, which a resumed run writes again."""
    with self._writing:
      self._files.keep_rows(
        lambda row: row["stage"] != stage or row["step"] <= step
      )

  def publish(
    self,
    console: Console,
    title: str,
    *parts: "str | list[str] | tables.Table | dict[str, str]",
  ) -> None:
    """Writes report.md; prints its tables, then its findings.

    A part is a text, a list of findings, a table, or figures, file -> caption.
    """
    texts, lists = [f"# {title}"], []
    if self.diverged:
      stages = ", ".join(self.diverged)
      note = f"Diverged: {stages}. Scores that are not finite have no meaning."
      parts = ([note], *parts)
    for part in parts:
      if isinstance(part, tables.Table):
        texts.append(part.markdown())
        if part.shown != ():
          console.print(part.console())
      elif isinstance(part, dict):
        texts += [
          f"![{caption}]({name})\n\n{caption}" for name, caption in part.items()
        ]
      elif isinstance(part, list):
        texts.append("\n".join(f"- {finding}" for finding in part))
        lists += part
      elif part:
        texts.append(part)
    for finding in lists:
      console.print(f"- {finding}", highlight=False, markup=False)
    console.print(
      f"Report and plots: {self.path}", highlight=False, soft_wrap=True
    )
    device, cores = jax.devices()[0], os.cpu_count()
    name = device.device_kind
    if name != device.platform:
      name = f"{name} ({device.platform})"
    texts += [
      "## Reproduction",
      f"```\n{commands.command_line()}\n```",
      f"kdjax {kdjax.__version__}, jax {jax.__version__}, Python "
      f"{platform.python_version()}, on {name}, {cores} cores, in "
      f"{time.monotonic() - self._begin:.0f} s. All flags: "
      "[config.json](config.json).",
    ]
    self._files.write("report.md", "\n\n".join(texts) + "\n")

  def report_divergence(
    self, console: Console, error: training.DivergedError
  ) -> None:
    """Writes a report that says that the run diverged, and where."""
    self.diverged = []  # the error names it
    self.publish(console, "Diverged", [f"Diverged: {error}"])


# A process has one run in a folder: a new one takes the place of the old.
_opened: dict[pathlib.Path, training.RunFolder] = {}


def _open(path: pathlib.Path) -> training.RunFolder:
  path = pathlib.Path(os.path.abspath(path))
  if path in _opened:
    _opened.pop(path).close()
  _opened[path] = training.RunFolder(path, needs=("stage", "step"))
  return _opened[path]


def _check_same_flags(
  folder: pathlib.Path,
  before: dict[str, Any],
  flags: dict[str, Any],
  free: Sequence[str],
) -> None:
  made_by = before.get("experiment", flags["experiment"])
  if made_by != flags["experiment"]:
    raise ValueError(
      f"{folder} has a run of experiments.{made_by}, not of "
      f"experiments.{flags['experiment']}. Give another --workdir."
    )
  changes = [
    f"--{name} was {before.get(name)!r} and is {value!r}"
    for name, value in flags.items()
    if name not in free and before.get(name) != value
  ]
  if changes:
    raise ValueError(
      f"{folder} was made with other flags: {'; '.join(changes)}. Resume "
      "with the same flags, or give another --workdir."
    )


def _delete(folder: pathlib.Path) -> None:
  """Deletes what a run wrote, and leaves all other files."""
  for pattern in WRITTEN:
    for path in folder.glob(pattern):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
