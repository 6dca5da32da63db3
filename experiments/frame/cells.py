"""Cells: parts of a run that leave one file each and are not computed twice."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rich.console import Console

from experiments.frame import progress
from kdjax import training


class Cells(NamedTuple):
  """The files of a run's cells; a cell's name is the path of its file."""

  folder: pathlib.Path  # of the run

  def file(self, *name: Any) -> pathlib.Path:
    """The file of a cell."""
    *folders_, last = map(str, name)
    return self.folder.joinpath("cells", *folders_, f"{last}.json")

  def read(self, *name: Any) -> Any:
    """The content of a finished cell."""
    return training.read_json(self.file(*name))

  def write(self, content: Any, *name: Any) -> None:
    """Finishes a cell."""
    training.write_json(self.file(*name), content)

  def missing(
    self, console: Console, names: Iterable[tuple[Any, ...]], steps: int = 1
  ) -> Iterator[tuple[tuple[Any, ...], progress.Update]]:
    """Goes over the cells without a file, with one progress bar for all."""
    names = list(names)
    left = [name for name in names if not self.file(*name).exists()]
    done = len(names) - len(left)
    if done:
      console.print(f"resuming: {done} of {len(names)} cells are done")
    if not left:
      return
    total = len(names) * steps
    with progress.progress(
      console, "cells", total, start=done * steps
    ) as update:
      for number, name in enumerate(left, done):
        yield name, lambda step, note, n=number: update(n * steps + step, note)
