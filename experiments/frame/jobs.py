"""The inputs of a run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console

from experiments.frame import commands
from experiments.frame import folders


class Setup(NamedTuple):
  """The inputs of a run before any computation."""

  config: Any
  run: folders.RunFolder
  console: Console
  data: Any


def open_run(config: Any, data: Any, *, free: Sequence[str] = ()) -> Setup:
  """Makes the run folder, whose further flags in `free` may change later."""
  run = folders.RunFolder(config, free=free)
  return Setup(config, run, commands.console(), data)
