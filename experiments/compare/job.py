"""The shared state of the cells of `experiments.compare`, and their files."""

import pathlib
import shutil
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from experiments.compare import methods
from experiments.compare.data import Data
from experiments.frame import folders
from kdjax import methods as kmethods
from kdjax import training

# Orbax numbers the writes of a process: those of two threads at once wait for
# each other's directories until they time out.
_WRITING = threading.Lock()


@dataclass
class Job:
  """The inputs and the shared state of cells; some run at the same time."""

  config: Any
  run: folders.RunFolder
  console: Console
  data: Data
  show: Callable[[int, str], None] = lambda done, note: None
  done: int = 0
  stopped: bool = False  # asks cells in other threads to end
  interruption: training.Interruption | None = None
  failed: dict[tuple[str, str], str] = field(default_factory=dict)
  shared: dict[Any, Any] = field(default_factory=dict)
  lock: Any = field(default_factory=threading.RLock)

  def once(self, name: Any, make: Callable[[], Any]) -> Any:
    """Makes an object that cells share when the first one asks for it."""
    with self.lock:
      if name not in self.shared:
        self.shared[name] = make()
      return self.shared[name]

  @property
  def is_stopping(self) -> bool:
    """Whether cells are to save and to end."""
    signal = self.interruption and self.interruption.signal
    return self.stopped or signal is not None

  def progress(self, steps: int, note: str) -> None:
    """Counts the steps of students, for one display of the whole grid."""
    if self.is_stopping:
      raise futures.CancelledError
    with self.lock:
      self.done += steps
      self.show(self.done, note)

  def recipe(self, name: str, *, teacher: bool) -> training.Recipe:
    """The recipe of a network, as a teacher or as a student."""
    config, data = self.config, self.data
    examples = len(data.train["label"]) if teacher else data.examples
    epochs = config.teacher_epochs if teacher else config.epochs
    return methods.make_recipe(config, name, data, examples, epochs)

  def network(self, name: str, *, teacher: bool) -> training.Network:
    """A network with its own recipe's view of images."""
    recipe = self.recipe(name, teacher=teacher)
    return methods.make_network(name, self.data, recipe, self.config.dtype)

  def file(self, folder: str, *name: str) -> pathlib.Path:
    """A path in the run folder, without the colon of a pair."""
    return self.run.path.joinpath(folder, *(stem(x) for x in name))

  def cell_file(self, pair: str, method: str) -> pathlib.Path:
    """The file of a finished cell."""
    return self.file("cells", pair, f"{method}.json")

  def saves(self, *name: str) -> "Saves":
    """The checkpoints of a cell."""
    return Saves(self, self.file("checkpoints", *name))


def stem(pair: str) -> str:
  """The name of a pair in the names of files."""
  return pair.replace(":", "_to_")


def total_steps(job: Job) -> int:
  """Steps of all students that are still to be trained, and of teachers."""
  config, data = job.config, job.data
  total, names, batch_size = 0, set(), 1
  for pair in config.pairs:
    teacher, student = pair.split(":")
    names.add(teacher)
    batch_size = job.recipe(student, teacher=False).batch_size
    for method in config.methods:
      if job.cell_file(pair, method).exists():
        continue
      if method == "takd":
        names.add(f"{config.assistant}_from_{teacher}")
      epochs = config.epochs + kmethods.describe(method).initialization_epochs
      total += config.seeds * epochs * -(-data.examples // batch_size)
  new = [name for name in names if not job.file("teachers", name).exists()]
  steps = -(-len(data.train["label"]) // batch_size)
  return max(total + len(new) * config.teacher_epochs * steps, 1)


class Saves:
  """The checkpoints of a cell, at most one every so many seconds."""

  def __init__(self, job: Job, folder: pathlib.Path):
    self.job, self.folder, self.saved = job, folder, time.monotonic()

  def restore(self, template: Any) -> Any:
    """The last checkpoint, or None."""
    return restore(self.folder, template)

  def save(self, step: int, tree: Any, position: Any) -> None:
    """Saves a checkpoint, if it is time or the run is to stop."""
    seconds = time.monotonic() - self.saved
    if seconds > self.job.config.checkpoint_seconds or self.job.is_stopping:
      save(self.folder, step, tree, position)
      self.saved = time.monotonic()


def save(folder: Any, step: int, tree: Any, position: Any = None) -> None:
  """Saves a checkpoint; the one before stays, in case this one is damaged."""
  with _WRITING, training.Checkpoints(folder, keep=2) as checkpoints:
    checkpoints.save(step, tree, position)


def restore(folder: pathlib.Path, template: Any) -> Any:
  """The last checkpoint, or None."""
  if not folder.exists():
    return None
  with _WRITING, training.Checkpoints(folder, keep=2) as checkpoints:
    return checkpoints.restore(template)


def save_variables(folder: pathlib.Path, variables: Any) -> None:
  """Saves a network in place of one that a killed run may have left."""
  shutil.rmtree(folder, ignore_errors=True)
  save(folder, 0, variables)


def load_variables(folder: pathlib.Path, template: Any) -> Any:
  """Loads a network of the template's shapes."""
  restored = restore(folder, template)
  if restored is None:
    raise FileNotFoundError(f"{folder} holds no network; delete the folder.")
  return restored.tree
