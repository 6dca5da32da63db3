"""Ctrl-C and SIGTERM end a run after the step under way, and save it."""

import signal
import sys
import threading
import types
from typing import Any, NoReturn


class Stopped(SystemExit, KeyboardInterrupt):
  """Stopped: a run has ended itself after a signal, with its exit code.

  It ends a program without a traceback, with 130 after Ctrl-C and 143 after
  SIGTERM; a program that catches KeyboardInterrupt catches it too.
  """


class Interruption:
  """Interruption: notes Ctrl-C and SIGTERM, for the loop to stop by itself.

  A second signal of the same kind acts at once. A signal that the loop does not
  look at any more acts when the loop is left. Signals are left alone outside
  the main thread, where Python handles none.

  Args:
    wanted: whether to note them at all.

  Attributes:
    signal: the signal that came, or None.

  Examples:
    >>> with Interruption() as interruption:
    ...   for step in range(3):
    ...     # One step, and where a signal came, a checkpoint.
    ...     if interruption.signal is not None:
    ...       interruption.stop(f"stopped at step {step} and saved")

  References:
    `fit`.
  """

  _SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self, wanted: bool = True):
    main = threading.current_thread() is threading.main_thread()
    self._wanted = wanted and main
    self._before: dict[int, Any] = {}
    self.signal: int | None = None

  def __enter__(self) -> "Interruption":
    for number in self._SIGNALS if self._wanted else ():
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    if kind is None and self.signal is not None:
      self.stop("stopped after the last step; the results are saved.")

  def _note(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self.signal = number
    signal.signal(number, self._before[number])

  def stop(self, message: str) -> NoReturn:
    """Ends the program with one line and the exit code of the signal.

    Args:
      message: the way to go on.

    Raises:
      Stopped: always; it is a SystemExit and a KeyboardInterrupt.
    """
    print(message, file=sys.stderr, flush=True)
    assert self.signal is not None
    raise Stopped(128 + self.signal)
