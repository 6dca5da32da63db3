"""Trains all cells: a method and the size of its buffer, all seeds at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual.data import Stream, padded, tests_of
from experiments.continual.methods import (
  BUFFERED,
  EXEMPLARS,
  JOINT,
  NAMES,
  SEQUENTIAL,
  Carry,
  Task,
)
from experiments.continual.networks import Setting
from experiments.continual.programs import Program, make_program
from experiments.continual.recipes import Recipe, recipe_of
from experiments.frame import cells, progress, rounds
from kdjax import training


class Result(NamedTuple):
  """The accuracies of a method, the last axis of which are seeds.

  Those of joint training have one row, and it never forgets.
  """

  # After each task on each task, `[tasks, tasks, seeds]`, among the classes
  # seen so far and among those of the task.
  class_il: np.ndarray
  task_il: np.ndarray
  random: np.ndarray  # before all training, among those of the task
  # Among all classes `[tasks, seeds]`, once the first task has returned.
  returned: np.ndarray | None
  # The same at the end of a stream whose buffer was lost; None without one.
  lost: np.ndarray | None

  @property
  def final(self) -> np.ndarray:
    """The mean accuracy after the last task, `[seeds]`."""
    return self.class_il[-1].mean(0)


def plan(config: Any) -> list[tuple[str, int]]:
  """All cells; the size of the buffer is 0 for methods without one."""
  sizes = {x: config.buffers for x in config.methods if x in BUFFERED}
  names = (SEQUENTIAL, *config.methods, JOINT)
  return [(name, size) for name in names for size in sizes.get(name, (0,))]


def label_of(name: str, buffer: int) -> str:
  """The name of a row."""
  return f"{NAMES[name]} ({buffer})" if buffer else NAMES[name]


def middle(tasks: int) -> int:
  """The number of tasks after which the buffer is lost."""
  return (tasks + 1) // 2


def train(job: Any) -> dict[tuple[str, int], Result]:
  """Trains the cells that the run folder has not, and reads all of them."""
  config, stream = job.config, job.data
  files, tests = cells.Cells(job.run.path), None
  wanted = plan(config)
  for cell, update in files.missing(job.console, wanted, stream.tasks):
    name, buffer = cell
    tests = tests_of(stream) if tests is None else tests
    show = shower(job, label_of(*cell), update)
    files.write(train_cell(config, stream, tests, name, buffer, show), *cell)
  results = {}
  for cell in wanted:
    content = files.read(*cell)
    for branch in content.pop("diverged"):
      job.run.diverged.append(label_of(*cell) + branch)
    arrays = {k: x and np.array(x) for k, x in content.items()}
    results[cell] = Result(**arrays)
  return results


def shower(
  job: Any, label: str, update: progress.Update
) -> Callable[[int, Carry, float], None]:
  """Returns a function that looks at a task's end, logs and shows it."""
  job.run.rewind(label, 0)
  check = training.FiniteCheck(
    job.config.nan, stage=label, name="the run", flag="--nan continue"
  )

  def show(step: int, carry: Carry, accuracy: float) -> None:
    check(step, {"parameters": carry.state.params})
    job.run.log(stage=label, step=step, accuracy=float(accuracy))
    update(step, f"{label}, accuracy so far {accuracy:.1%}")

  return show


def train_cell(
  config: Any,
  stream: Stream,
  tests: Any,
  name: str,
  buffer: int,
  show: Callable[[int, Carry, float], None],
) -> dict[str, Any]:
  """Trains a method on the stream, and once more after its interruptions."""
  recipe = recipe_of(config, SEQUENTIAL if name == JOINT else name, buffer)
  run = Run(config, stream, tests, name, recipe, buffer)
  carry = run.start()
  _, random = run.test(carry, stream.tasks)
  ends = {}  # branch of the stream -> the networks at its end
  if name == JOINT:
    carry = run.learn_all(carry)
    pairs = [run.test(carry, stream.tasks)]
    show(stream.tasks, carry, pairs[0][0].mean())
    returned = lost = None
  else:
    pairs, kept = [], carry
    for task in range(stream.tasks):
      carry = run.learn(carry, task)
      pairs.append(run.test(carry, task + 1))
      kept = carry if task + 1 == middle(stream.tasks) else kept
      show(task + 1, carry, pairs[-1][0][: task + 1].mean())
    ends[", the first task again"] = again = run.learn_again(carry)
    returned, _ = run.test(again, stream.tasks)
    lost = None
    if buffer:
      without = run.program.empty(kept)
      for task in range(middle(stream.tasks), stream.tasks):
        without = run.learn(without, task)
      lost, _ = run.test(without, stream.tasks)
      ends[", the buffer lost"] = without
  ends[""] = carry
  return {
    "class_il": [seen.tolist() for seen, _ in pairs],
    "task_il": [own.tolist() for _, own in pairs],
    "random": random.tolist(),
    "returned": None if returned is None else returned.tolist(),
    "lost": None if lost is None else lost.tolist(),
    "diverged": [x for x, carry in ends.items() if not is_finite(carry)],
  }


def is_finite(carry: Carry) -> bool:
  """Whether all parameters of all students are finite."""
  leaves = jax.tree.leaves(carry.state.params)
  return all(bool(jnp.isfinite(x).all()) for x in leaves)


class Run:
  """The program of a method, fed with the tasks of a stream."""

  def __init__(
    self,
    config: Any,
    stream: Stream,
    tests: Any,
    name: str,
    recipe: Recipe,
    buffer: int,
  ):
    self.config, self.stream, self.tests = config, stream, tests
    self.name, self.recipe = name, recipe
    shape = stream.images.shape[1:]
    task_classes = len(stream.classes[0])
    classes = stream.num_classes, task_classes
    setting = Setting(config.hidden, shape, *classes, buffer, config.network)
    self.program: Program = make_program(name, recipe, setting)
    self.keys = rounds.seed_keys(config)
    own = np.zeros((stream.tasks, stream.num_classes), np.float32)
    for row, classes in zip(own, stream.classes, strict=True):
      row[list(classes)] = 1
    self.own = own
    self.room = max(len(part.rows) for part in stream.parts)

  def start(self) -> Carry:
    """The carry before the first task."""
    return self.program.start(self._keys(0))

  def test(self, carry: Carry, seen: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies `[tasks, seeds]` among classes seen and among the task's."""
    marks = self.own[:seen].max(0)
    pair = self.program.test(carry, self.tests, self.own, marks)
    seen_, own = (np.asarray(x).T for x in pair)
    return seen_, own

  def learn(self, carry: Carry, task: int) -> Carry:
    """Learns a task."""
    past = self.own[:task].max(0, initial=0)
    return self._learn(carry, self._task(task, past, task + 1), 1 + task)

  def learn_again(self, carry: Carry) -> Carry:
    """Learns a part of the first task after all others."""
    tasks = self.stream.tasks
    task = self._task(0, self.own[1:].max(0), tasks)
    return self._learn(carry, task, 1 + tasks, self.config.returning)

  def learn_all(self, carry: Carry) -> Carry:
    """Learns all tasks at once."""
    parts = [self.stream.train(task) for task in range(self.stream.tasks)]
    data = {k: np.concatenate([x[k] for x in parts]) for k in parts[0]}
    size = len(data["label"])
    first = self._task(0, np.zeros(self.stream.num_classes), 1)
    whole = first._replace(data=padded(data, size), size=size, is_ordered=False)
    return self._learn(carry, whole, 1)

  def _task(self, task: int, past: np.ndarray, seen: int) -> Task:
    part = self.stream.train(task)
    if not self.stream.is_split:
      past = np.zeros_like(past)
    return Task(
      padded(part, self.room),
      len(part["label"]),
      np.array(self.stream.classes[task], np.int32),
      past.astype(np.float32),
      task,
      seen,
      self.stream.is_ordered,
    )

  def _learn(
    self, carry: Carry, task: Task, number: int, share: float = 1.0
  ) -> Carry:
    count = task.size
    if self.name in EXEMPLARS:
      count += int(carry.buffer.seen.max())
    steps, epochs = -(-count // self.recipe.batch_size), self.config.epochs
    if share < 1:
      part = max(1, round(share * epochs * steps))
      epochs, steps = -(-part // steps), min(part, steps)
    return self.program.learn(carry, task, epochs, steps, self._keys(number))

  def _keys(self, number: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(self.keys, number)
