"""Errors of runs that are not the fault of the program."""

from collections.abc import Sequence


class RunError(ValueError):
  """Run error: a run cannot go on, and the program is not at fault.

  Raised for damaged or foreign files in the folder of a run, and for a folder
  that another process has.

  Args:
    message: one line.

  References:
    `RunFolder`, `Checkpoints`.
  """

  def __init__(self, message: str):
    super().__init__(message)


class DivergedError(RunError):
  """Diverged: a loss, a metric or a parameter of a run is not finite.

  Args:
    message: one line.
    step: the step at which it was seen.
    terms: the names of the losses, metrics or parameters.
    stage: the part of the run; empty if it has one part.

  References:
    `FiniteCheck`.
  """

  def __init__(
    self, message: str, *, step: int, terms: Sequence[str], stage: str = ""
  ):
    super().__init__(message)
    self.step = step
    self.terms = tuple(terms)
    self.stage = stage
