"""What `fit` returns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from kdjax.training.learners._learner import Learner
from kdjax.training.loop._progress import describe
from kdjax.training.loop._students import Students, student_of
from kdjax.training.networks._models import Model, Variables
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.steps._state import TrainState


class FitResult(NamedTuple):
  """Result of `fit`.

  Attributes:
    model: the trained student, as a `Model`; None of several students.
    module: the user's NNX module as a copy with the trained weights; None if
      the student was given as something else, or of several students.
    metrics: name -> values by evaluation, `[evaluations]` or `[evaluations,
      students]`, and `"step"`. Names as in `metrics.jsonl`; NaN where a value
      is missing, and of a student that diverged.
    state: the `TrainState` at the end: `averaged_student(state)` has the
      average of the student, `state.network(name)` another trained network.
      Of several students its arrays have a leading axis of them.
    students: the result of each student, in the order of the grid; empty for
      one student alone.
    values: the hyper-parameters of the grid that this student has, by name.
    diverged: whether a number was not finite, bool, or `[students]`.

  References:
    `fit`.
  """

  model: Model | None
  module: nnx.Module | None
  metrics: dict[str, np.ndarray]
  state: TrainState
  students: tuple["FitResult", ...] = ()
  values: Mapping[str, float] = {}
  diverged: np.ndarray = np.array(False)

  def __repr__(self) -> str:
    parts = [f"{len(self.students)} students"] if self.students else []
    steps = self.metrics.get("step", np.zeros(0, int))
    if len(steps):
      last = {k: v[-1] for k, v in self.metrics.items()}
      text = describe({k: np.asarray(v) for k, v in last.items()})
      parts += [f"step {steps[-1]}", *text.split(", ")[:3]]
    if np.any(self.diverged):
      parts += [f"{np.sum(self.diverged)} diverged"]
    return f"FitResult({', '.join(filter(None, parts))})"


def result_of(
  learner: Learner,
  state: TrainState,
  lines: Sequence[Mapping[str, Any]],
  students: Students | None,
  diverged: np.ndarray,
) -> FitResult:
  """The result of a run, with one for each student of several."""
  names = dict.fromkeys(k for line in lines for k in line)
  shared = ("step", "seconds")
  count = 0 if students is None else students.size
  metrics = {
    k: np.array(
      [_values(line.get(k), 0 if k in shared else count) for line in lines]
    )
    for k in names
  }
  if students is None:
    return _of_one(learner, state, metrics)._replace(diverged=diverged)
  whole = _on_one_device(state)
  own = tuple(
    _of_one(
      learner,
      student_of(whole, i),
      {k: v if k in shared else v[:, i] for k, v in metrics.items()},
    )._replace(
      values={k: v[i] for k, v in students.describe().items()},
      diverged=diverged[i],
    )
    for i in range(students.size)
  )
  return FitResult(None, None, metrics, state, own, {}, diverged)


def _values(value: Any, count: int) -> Any:
  """A value of a line, where null is NaN; of `count` students if any."""
  if not count:
    return math.nan if value is None else value
  values = [None] * count if value is None else value
  return [math.nan if x is None else x for x in values]


def _of_one(
  learner: Learner, state: TrainState, metrics: dict[str, np.ndarray]
) -> FitResult:
  trained = [k for k in state.params if k != "objective"]
  name = "student" if "student" in trained else trained[0]
  variables = _on_one_device(state.network(name))
  forward = learner.loss_fn.forwards[name]
  assert not isinstance(forward, CachedTeacher)  # it is not trained
  given = learner.modules[name]
  module = (
    _with_weights(given, variables) if isinstance(given, nnx.Module) else None
  )
  return FitResult(Model(forward, variables), module, metrics, state)


def _on_one_device(tree: Any) -> Any:
  """The arrays on the default device, if they are on several."""
  leaves = jax.tree.leaves(tree)
  if all(len(x.devices()) == 1 for x in leaves):
    return tree
  return jax.tree.map(jax.numpy.asarray, jax.device_get(tree))


def _with_weights(module: nnx.Module, variables: Variables) -> nnx.Module:
  """A copy of a module with other weights; its random streams start as its."""
  graph, _, streams, _ = nnx.split(module, nnx.Param, nnx.RngState, ...)
  return nnx.merge(graph, variables.params, streams, variables.state, copy=True)
