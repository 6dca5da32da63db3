"""The shared state of the cells of `experiments.compare`, and their files."""

import pathlib
import shutil
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from rich.console import Console

from experiments.compare.data import Data
from experiments.compare.methods import make_network
from experiments.compare.methods import make_recipe
from experiments.compare.methods import row_of
from experiments.frame.folders import RunFolder
from kdjax import training


@dataclass
class Job:
  """The inputs and the shared state of cells; some run at the same time."""

  config: Any
  run: RunFolder
  console: Console
  data: Data
  show: Callable[[int, str], None] = lambda done, note: None
  done: int = 0
  stopped: bool = False  # asks cells in other threads to end
  failed: dict[tuple[str, str], str] = field(default_factory=dict)
  shared: dict[Any, Any] = field(default_factory=dict)
  lock: Any = field(default_factory=threading.RLock)

  def once(self, name: Any, make: Callable[[], Any]) -> Any:
    """Makes what cells share when the first one asks for it."""
    with self.lock:
      if name not in self.shared:
        self.shared[name] = make()
      return self.shared[name]

  def progress(self, steps: int, note: str) -> None:
    """Counts the steps of students, for one display of the whole grid."""
    if self.stopped:
      raise futures.CancelledError
    with self.lock:
      self.done += steps
      self.show(self.done, note)

  def log(self, **row: Any) -> None:
    """Appends a row to metrics.jsonl."""
    with self.lock:
      self.run.log(**row)

  def rewind(self, stage: str, step: int) -> None:
    """Drops what a cell that was killed had logged since its checkpoint."""
    with self.lock:
      self.run.rewind(stage, step)

  def recipe(self, name: str, *, teacher: bool) -> training.Recipe:
    """The recipe of a network, as a teacher or as a student."""
    config, data = self.config, self.data
    return make_recipe(
      config,
      name,
      data,
      examples=len(data.train["label"]) if teacher else data.examples,
      epochs=config.teacher_epochs if teacher else config.epochs,
    )

  def network(self, name: str, *, teacher: bool) -> training.Network:
    """A network with its own recipe's view of images."""
    recipe = self.recipe(name, teacher=teacher)
    return make_network(name, self.data, recipe, self.config.dtype)


def cell_file(job: Job, teacher: str, student: str, method: str):
  """The file of a finished cell."""
  folder = job.run.path / "cells" / f"{teacher}_to_{student}"
  return folder / f"{method}.json"


def total_steps(job: Job) -> int:
  """Steps of all students that are still to be trained, and of teachers."""
  config, data = job.config, job.data
  total, names, batch_size = 0, set(), 1
  for pair in config.pairs:
    teacher, student = pair.split(":")
    names.add(teacher)
    batch_size = job.recipe(student, teacher=False).batch_size
    for method in config.methods:
      if cell_file(job, teacher, student, method).exists():
        continue
      if method == "takd":
        names.add(f"{config.assistant}_from_{teacher}")
      row = row_of(method)
      epochs = config.epochs + row.initialization_epochs
      total += config.seeds * epochs * -(-data.examples // batch_size)
  for name in names:
    if not (job.run.path / "teachers" / name).exists():
      total += config.teacher_epochs * -(
        -len(data.train["label"]) // batch_size
      )
  return max(total, 1)


def students_folder(job: Job, file: pathlib.Path) -> pathlib.Path:
  """The folder of the trained students of a cell."""
  return job.run.path / "students" / file.parent.name / file.stem


# Orbax numbers the writes of a process: those of two threads at once wait for
# each other's directories until they time out.
_WRITING = threading.Lock()


def save(
  folder: pathlib.Path, step: int, tree: Any, position: Any = None
) -> None:
  """Saves a checkpoint, in place of the one before."""
  with _WRITING, training.Checkpoints(folder, keep=1) as checkpoints:
    checkpoints.save(step, tree, position)


def restore(folder: pathlib.Path, template: Any) -> Any:
  """The last checkpoint, or None."""
  with _WRITING, training.Checkpoints(folder, keep=1) as checkpoints:
    return checkpoints.restore(template)


def save_variables(folder: pathlib.Path, variables: Any) -> None:
  """Saves a network, replacing what a killed run may have left."""
  shutil.rmtree(folder, ignore_errors=True)
  save(folder, 0, variables)


def load_variables(folder: pathlib.Path, template: Any) -> Any:
  """Loads a network of the template's shapes."""
  restored = restore(folder, template)
  if restored is None:
    raise FileNotFoundError(f"{folder} holds no network; delete the folder.")
  return restored.tree
