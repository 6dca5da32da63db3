"""Runs whose numbers are not finite any more."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kdjax import ops
from kdjax.training.loop._checkpoints import Checkpoints
from kdjax.training.loop._run_errors import DivergedError


class FiniteCheck:
  """Finite check: stops a run that diverged, or warns once and lets it go on.

  Args:
    nan: `"stop"` or `"continue"`.
    checkpoints: of the run. If it goes on, the latest one, which is finite, is
      copied to a folder `finite` before others take its place.
    stage: the part of the run, if it has several.
    name: of the run, for errors.
    flag: how a caller lets the run go on, for errors.

  Examples:
    >>> check = FiniteCheck("stop", stage="students")
    >>> check(3, {"loss": 0.5})
    >>> check(4, {"loss": float("nan")})
    Traceback (most recent call last):
    ...
    kdjax.training.loop._run_errors.DivergedError: run: diverged at step 4 of
    students: loss is nan; expected finite numbers. ...

  References:
    `fit`.
  """

  def __init__(
    self,
    nan: str = "stop",
    checkpoints: Checkpoints | None = None,
    *,
    stage: str = "",
    name: str = "run",
    flag: str = "nan='continue'",
  ):
    ops.check_choice(f"{name}: nan", nan, ("stop", "continue"))
    self._stops = nan == "stop"
    self._checkpoints = checkpoints
    self._stage, self._name, self._flag = stage, name, flag
    self._said = False

  @property
  def diverged(self) -> np.ndarray:
    """Whether a number was not finite, bool."""
    return np.array(self._said)

  def __call__(self, step: int, values: Any) -> None:
    """Looks at the numbers of a step.

    Args:
      step: of the run.
      values: a pytree of numbers and arrays, such as name -> loss; a leaf is
        named by its path. Integers and keys pass.

    Raises:
      DivergedError: naming the step, the stage and the values that are not
        finite, if the run is to stop.
    """
    faults = {} if self._said else _faults(values)
    if not faults:
      return
    # A part of the loss says more than the loss.
    names = sorted(faults, key=lambda k: k.removeprefix("train/") == "loss")
    listed = names[:_MOST_NAMES]
    text = ", ".join(f"{k} is {faults[k]}" for k in listed)
    if len(names) > len(listed):
      text += f", and {len(names) - len(listed)} others"
    where = f"step {step} of {self._stage}" if self._stage else f"step {step}"
    text = f"{self._name}: diverged at {where}: {text}"
    latest = self._checkpoints and self._checkpoints.latest
    if not self._stops:
      self._said = True
      kept = self._checkpoints and self._checkpoints.keep_latest()
      kept = f" The last finite checkpoint is kept in {str(kept)!r}."
      warnings.warn(
        f"{text}; the run goes on, with {self._flag}."
        f"{kept if latest is not None else ''}",
        stacklevel=3,
      )
      return
    kept = f" The checkpoint of step {latest} is kept." if latest else ""
    raise DivergedError(
      f"{text}; expected finite numbers. Lower the learning rate or clip the "
      f"gradients; {self._flag} goes on all the same.{kept}",
      step=step,
      terms=names,
      stage=self._stage,
    )


_MOST_NAMES = 4


class StudentsCheck:
  """Finite check of many students: the run ends when all of them diverged.

  Args:
    check: of the run, for when all diverged.
    diverged: bool `[students]`, which diverged before.
  """

  def __init__(self, check: FiniteCheck, diverged: Sequence[bool]):
    self._check = check
    self.diverged = np.array(diverged, bool)

  def __call__(self, step: int, values: Any) -> None:
    """Looks at arrays with a leading axis of students."""
    bad = np.zeros_like(self.diverged)
    for x in jax.tree.leaves(values):
      if _is_floating(jax.numpy.result_type(x)):
        finite = np.isfinite(_whole(x))
        bad |= ~finite.reshape(len(bad), -1).all(1)
    new = bad & ~self.diverged
    if not new.any():
      return
    self.diverged = self.diverged | bad
    if self.diverged.all():
      self._check(step, values)
      return
    listed = ", ".join(map(str, np.flatnonzero(new)))
    warnings.warn(
      f"fit: of {len(bad)} students these diverged at step {step}: {listed}; "
      "the others go on.",
      stacklevel=3,
    )

  def hidden(self, value: Any) -> Any:
    """The values of a metric, NaN for students that diverged."""
    return np.where(self.diverged, np.nan, value)


def _faults(values: Any) -> dict[str, str]:
  """Name -> the first number that is not finite, and of how many."""
  named = {
    jax.tree_util.keystr(path, simple=True, separator="."): x
    for path, x in jax.tree_util.tree_leaves_with_path(values)
  }
  faults = {}
  for name, x in named.items():
    if hasattr(x, "dtype") and not _is_floating(x.dtype):
      continue
    x = _whole(x)
    bad = ~np.isfinite(x)
    if bad.any():
      count = int(bad.sum())
      text = f"{np.asarray(x)[bad].ravel()[0]}"
      faults[name] = text if x.size == 1 else f"{text} in {count} of {x.size}"
  return faults


def _whole(x: Any) -> np.ndarray:
  if getattr(x, "is_fully_addressable", True):
    return np.asarray(x)
  if x.is_fully_replicated:
    return np.asarray(x.addressable_data(0))
  return np.concatenate([np.ravel(s.data) for s in x.addressable_shards])


def _is_floating(dtype: Any) -> bool:
  return jax.numpy.issubdtype(dtype, jax.numpy.inexact)
