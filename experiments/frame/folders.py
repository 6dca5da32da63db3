"""The folder of a run: flags, metrics, cells, report, plots and checkpoints."""

import dataclasses
import json
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

import kdjax
from experiments.frame import commands
from experiments.frame import tables

# Flags that say where and how a run computes, not what.
FREE_FLAGS = (
  "data_dir",
  "devices",
  "overwrite",
  "parallel",
  "resume",
  "workdir",
)
# What a run writes, and --overwrite deletes.
WRITTEN = (
  "config.json",
  "metrics.jsonl",
  "report.md",
  "results.csv",
  "results.json",
  "*.png",
  "cells",
  "checkpoints",
  "students",
  "teachers",
)


class RunFolder:
  """Run folder: config.json, metrics.jsonl, report.md, plots and checkpoints.

  Attributes:
    path: the folder.

  Args:
    config: a dataclass with the fields of `commands.Flags`.
    free: further flags that may change when a run is resumed.

  Raises:
    ValueError: if the folder has a run and neither --resume nor --overwrite is
      given, if there is no run to resume, if it was made by another experiment
      or with flags that change its results, or if it cannot be made.
  """

  def __init__(self, config: Any, *, free: Sequence[str] = ()):
    self._begin = time.monotonic()
    self.path = pathlib.Path(config.workdir)
    self._metrics = self.path / "metrics.jsonl"
    flags = {"experiment": commands.experiment_of(config)}
    flags |= json.loads(json.dumps(dataclasses.asdict(config), default=str))
    try:
      self._open(config, flags, free)
    except OSError as error:
      raise ValueError(
        f"workdir is {config.workdir!r}; got the error "
        f"{(error.strerror or str(error)).lower()!r}, expected a folder that "
        "can be written. Give another --workdir."
      ) from None

  def _open(
    self, config: Any, flags: dict[str, Any], free: Sequence[str]
  ) -> None:
    file = self.path / "config.json"
    if config.resume and config.overwrite:
      raise ValueError("--resume and --overwrite exclude each other; give one.")
    if config.resume:
      _check_same_flags(file, flags, (*FREE_FLAGS, *free))
    elif file.exists() and not config.overwrite:
      raise ValueError(
        f"{self.path} has a run already. Go on with it by --resume, replace it "
        "by --overwrite, or give another --workdir."
      )
    elif file.exists():
      _delete(self.path)
    self.path.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(flags, indent=2) + "\n")

  def log(self, **row: Any) -> None:
    """Appends one row to metrics.jsonl, whole or not at all.

    Args:
      **row: what JSON holds; arrays become numbers or lists.
    """
    row = {
      key: np.asarray(value).tolist() if hasattr(value, "dtype") else value
      for key, value in row.items()
    }
    with self._metrics.open("a") as file:
      file.write(json.dumps(row) + "\n")

  def rewind(self, stage: str, step: int) -> None:
    """Drops the rows of a stage that a resumed run will write again.

    Args:
      stage: the row's `"stage"`.
      step: rows with a larger `"step"` go.
    """
    if not self._metrics.exists():
      return
    rows = self._metrics.read_text().splitlines(keepends=True)
    kept = [row for row in rows if not _comes_after(row, stage, step)]
    temporary = self._metrics.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, self._metrics)

  def publish(
    self,
    console: Console,
    title: str,
    *parts: "str | list[str] | tables.Table | dict[str, str]",
  ) -> None:
    """Writes report.md; prints its tables and its findings.

    Args:
      console: where to print.
      title: of the report.
      *parts: in their order: a text; a list of findings; a table; or figures,
        file -> caption. Tables are printed first, then the findings.
    """
    texts, lists = [f"# {title}"], []
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
    (self.path / "report.md").write_text("\n\n".join(texts) + "\n")


def write_json(file: pathlib.Path, content: Any) -> None:
  """Writes a file whole or not at all."""
  file.parent.mkdir(parents=True, exist_ok=True)
  temporary = file.with_suffix(".tmp")
  temporary.write_text(json.dumps(content) + "\n")
  os.replace(temporary, file)


def _check_same_flags(
  file: pathlib.Path, flags: dict[str, Any], free: Sequence[str]
) -> None:
  if not file.exists():
    raise ValueError(
      f"{file.parent} has no run to resume. Leave out --resume, or give the "
      "--workdir of one."
    )
  before = json.loads(file.read_text())
  made_by = before.get("experiment", flags["experiment"])
  if made_by != flags["experiment"]:
    raise ValueError(
      f"{file.parent} has a run of experiments.{made_by}, not of "
      f"experiments.{flags['experiment']}. Give another --workdir."
    )
  changes = [
    f"--{name} was {before.get(name)!r} and is {value!r}"
    for name, value in flags.items()
    if name not in free and before.get(name) != value
  ]
  if changes:
    raise ValueError(
      f"{file.parent} was made with other flags: {'; '.join(changes)}. Resume "
      "with the same flags, or give another --workdir."
    )


def _delete(folder: pathlib.Path) -> None:
  """Deletes what a run wrote, and leaves all other files."""
  for pattern in WRITTEN:
    for path in folder.glob(pattern):
      shutil.rmtree(path) if path.is_dir() else path.unlink()


def _comes_after(line: str, stage: str, step: int) -> bool:
  try:
    row = json.loads(line)
  except json.JSONDecodeError:
    return True  # The run was killed while it wrote this line.
  return row["stage"] == stage and row["step"] > step
