"""Flags, devices and the folder that one run writes."""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

import kdjax

Config = TypeVar("Config")
Result = TypeVar("Result")

# Flags that say where and how a run computes, not what.
FREE_FLAGS = ("data_dir", "devices", "parallel", "resume", "workdir")


def parse(config_class: type[Config]) -> Config:
  """Reads the command line into a frozen dataclass.

  Args:
    config_class: its fields are the flags, the `Attributes` section of its
      docstring is their help.

  Returns:
    The configuration. `--help` prints all flags and exits.
  """
  return tyro.cli(config_class, use_underscores=True)


def expect(config: Any, name: str, met: bool, expected: str) -> None:
  """Raises ValueError for a flag whose value will not do.

  Args:
    config: the flags.
    name: of the flag.
    met: whether its value will do.
    expected: what would, in words.
  """
  if not met:
    raise ValueError(
      f"{name} is {getattr(config, name)!r}; expected {expected}."
    )


def expect_positive(config: Any, *names: str) -> None:
  """Raises ValueError unless flags are finite and above 0, and all of a tuple.

  Args:
    config: the flags.
    *names: of numbers or tuples of different numbers.
  """
  for name in names:
    value = getattr(config, name)
    many = isinstance(value, tuple)
    numbers = value if many else (value,)
    met = all(0 < x < float("inf") for x in numbers)
    met = met and 0 < len(set(numbers)) == len(numbers)
    kind = "one or more different numbers" if many else "a number"
    expect(config, name, met, f"{kind} above 0")


def expect_multiple(config: Any, name: str, unit: str) -> None:
  """Raises ValueError unless a flag is a multiple of another, both above 0.

  Args:
    config: the flags.
    name: of the flag.
    unit: of the other.
  """
  expect_positive(config, unit, name)
  size = getattr(config, unit)
  met = getattr(config, name) % size == 0
  expect(config, name, met, f"a multiple of {unit}, which is {size}")


def set_up(prepare: Callable[[Config], Result], config: Config) -> Result:
  """Prepares a run; a mistake of the user's ends the program with one line.

  Only the preparation is guarded: an error in training is a bug and keeps its
  traceback.

  Args:
    prepare: what fails for wrong flags, folders, devices and data.
    config: the flags.

  Returns:
    What `prepare` returns.
  """
  try:
    return prepare(config)
  except (ValueError, FileExistsError, FileNotFoundError) as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def console() -> Console:
  """A console as wide as its terminal, or wide enough for a table in a file."""
  console = Console()
  return console if console.is_terminal else Console(width=110)


def use_devices(count: int) -> tuple[jax.Device, ...]:
  """The first devices; a CPU pretends to be as many as are wanted.

  Args:
    count: how many.

  Returns:
    The devices.

  Raises:
    ValueError: if there are fewer.
  """
  if count > 1:
    # JAX may run already, as in a test; then it has the devices it has.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", count)
  devices = jax.devices()
  if not 1 <= count <= len(devices):
    raise ValueError(f"devices is {count}; expected 1 to {len(devices)}.")
  return tuple(devices[:count])


def students_at_a_time(network: str) -> int | None:
  """Returns the `chunk_size` of `training.sweep` that suits a network here.

  Convolutions of many kernels become convolutions in groups, for which a CPU
  has no fast program.

  Args:
    network: its name.
  """
  return 1 if jax.default_backend() == "cpu" and network != "mlp" else None


class RunFolder:
  """Run folder: config.json, metrics.jsonl, report.md, plots and checkpoints.

  Attributes:
    path: the folder.

  Args:
    config: a dataclass with the fields `workdir` and `resume`.
    free: further flags that may change when a run is resumed.

  Raises:
    FileExistsError: if the folder has a run and it is not to be resumed.
    FileNotFoundError: if there is no run to resume.
    ValueError: if a run is resumed with flags that change its results.
  """

  def __init__(self, config: Any, *, free: Sequence[str] = ()):
    self._begin = time.monotonic()
    self.path = pathlib.Path(config.workdir)
    self._metrics = self.path / "metrics.jsonl"
    flags = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    file = self.path / "config.json"
    if config.resume:
      _check_same_flags(file, flags, (*FREE_FLAGS, *free))
    elif file.exists():
      raise FileExistsError(
        f"{self.path} has a run already. Go on with --resume, or give another "
        "--workdir."
      )
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

  def report(self, *parts: str) -> pathlib.Path:
    """Writes report.md and ends it with how the run was made.

    Args:
      *parts: Markdown, paragraph by paragraph.

    Returns:
      The file.
    """
    module = sys.modules["__main__"].__spec__
    program = f"python -m {module.name}" if module else "python"
    device, cores = jax.devices()[0], os.cpu_count()
    name = device.device_kind
    if name != device.platform:
      name = f"{name} ({device.platform})"
    versions = f"kdjax {kdjax.__version__}, jax {jax.__version__}"
    file = self.path / "report.md"
    footer = (
      "## How it was made",
      f"```\n{program} {shlex.join(sys.argv[1:])}".rstrip() + "\n```",
      f"{versions}, Python {platform.python_version()}, on {name}, {cores} "
      f"cores, in {time.monotonic() - self._begin:.0f} s. All flags: "
      "[config.json](config.json).",
    )
    file.write_text("\n\n".join((*parts, *footer)) + "\n")
    return file


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown, the first column to the left, the others right.

  Args:
    header: the names of the columns.
    rows: their cells.

  Returns:
    Its lines.
  """
  rule = ["---", *["---:"] * (len(header) - 1)]
  return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def console_table(
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  title: str | None = None,
) -> Table:
  """A table for the console, aligned as :func:`markdown_table`.

  Args:
    header: the names of the columns.
    rows: their cells.
    title: what stands above it.

  Returns:
    What a console prints.
  """
  table = Table(*header[:1], box=box.SIMPLE_HEAD, title=title)
  for name in header[1:]:
    table.add_column(name, justify="right")
  for row in rows:
    table.add_row(*row)
  return table


def _check_same_flags(
  file: pathlib.Path, flags: dict[str, Any], free: Sequence[str]
) -> None:
  if not file.exists():
    raise FileNotFoundError(
      f"{file.parent} has no run to resume. Leave out --resume, or give the "
      "--workdir of one."
    )
  before = json.loads(file.read_text())
  changes = [
    f"--{name} was {before.get(name)!r} and is {value!r}"
    for name, value in flags.items()
    if name not in free and before.get(name) != value
  ]
  if changes:
    raise ValueError(
      f"{file.parent} was made with other flags: {'; '.join(changes)}. Resume "
      "with the same ones, or give another --workdir."
    )


def _comes_after(line: str, stage: str, step: int) -> bool:
  try:
    row = json.loads(line)
  except json.JSONDecodeError:
    return True  # The run was killed while it wrote this line.
  return row["stage"] == stage and row["step"] > step
