"""A live progress bar, or plain lines where there is no terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress as rich_progress
from rich.console import Console

SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def progress(
  console: Console, title: str, total: int, *, start: int = 0
) -> Iterator[Callable[[int, str], None]]:
  """Shows how far a loop is, its rate and the time left.

  Args:
    console: where to; it knows if it is a terminal.
    title: what is going on.
    total: the number of steps.
    start: where a resumed loop begins.

  Yields:
    `update(completed, note)`, to be called with the steps done so far and what
    else to show, such as an accuracy.
  """
  show = _bar if console.is_terminal else _lines
  with show(console, title, total, start) as update:
    yield update


@contextlib.contextmanager
def _bar(
  console: Console, title: str, total: int, start: int
) -> Iterator[Callable[[int, str], None]]:
  columns = (
    rich_progress.TextColumn("{task.description:<9}"),
    rich_progress.BarColumn(bar_width=28),
    rich_progress.TextColumn("{task.completed}/{task.total} steps"),
    rich_progress.TextColumn("{task.fields[rate]}"),
    rich_progress.TimeRemainingColumn(compact=True),
    rich_progress.TextColumn("left  {task.fields[note]}", style="dim"),
  )
  with rich_progress.Progress(*columns, console=console) as bars:
    task = bars.add_task(
      title, total=total, completed=start, rate="compiling", note=""
    )
    rate = _Rate()

    def update(completed: int, note: str) -> None:
      bars.update(task, completed=completed, rate=rate(completed)[0], note=note)

    yield update


@contextlib.contextmanager
def _lines(
  console: Console, title: str, total: int, start: int
) -> Iterator[Callable[[int, str], None]]:
  rate, printed = _Rate(), time.monotonic()

  def update(completed: int, note: str) -> None:
    nonlocal printed
    speed, seconds = rate(completed)
    now = time.monotonic()
    if completed < total and now - printed < SECONDS_BETWEEN_LINES:
      return
    printed = now
    left = f", {(total - completed) * seconds:.0f} s left" if seconds else ""
    console.print(
      f"{title}: {completed}/{total} steps, {speed}{left}; {note}",
      highlight=False,
      soft_wrap=True,
    )

  yield update


class _Rate:
  """Steps per second since the first round, which is spent on compiling."""

  def __init__(self):
    self._begin = time.monotonic()
    self._first: tuple[int, float] | None = None

  def __call__(self, completed: int) -> tuple[str, float]:
    """Returns the rate as text, and the seconds of a step, 0 if unknown."""
    now = time.monotonic()
    if self._first is None:
      self._first = (completed, now)
      return f"first round in {now - self._begin:.1f} s", 0.0
    steps, seconds = completed - self._first[0], now - self._first[1]
    return f"{steps / max(seconds, 1e-9):,.0f} steps/s", seconds / steps
