"""A live progress bar, or plain lines where there is no terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
TITLE = 16  # characters; a longer title is cut
Update = Callable[[int, str], None]


@contextlib.contextmanager
def progress(
  console: Console, title: str, total: int, *, start: int = 0
) -> Iterator[Update]:
  """Shows how far a loop is, its rate and the time left."""
  show = _bar if console.is_terminal else _lines
  with show(console, title, total, start) as update:
    yield update


class _Left(rich_progress.TimeRemainingColumn):
  """The time left, where it is known."""

  def render(self, task: rich_progress.Task) -> Text:
    time_left = super().render(task).plain
    if task.completed >= (task.total or 0) or "-" in time_left:
      return Text("")
    return Text(f"{time_left} left", no_wrap=True)


class _Note(rich_progress.ProgressColumn):
  """The note, cut to the width that all else leaves."""

  def render(self, task: rich_progress.Task) -> Text:
    return Text(
      task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis"
    )


@contextlib.contextmanager
def _bar(
  console: Console, title: str, total: int, start: int
) -> Iterator[Update]:
  width = 28 if console.width >= 120 else 10

  def fixed(cells: int | None = None) -> Column:
    return Column(no_wrap=True, width=cells)

  columns = (
    rich_progress.TextColumn("{task.description:<9}", table_column=fixed()),
    rich_progress.BarColumn(bar_width=width, table_column=fixed(width)),
    rich_progress.TextColumn(
      "{task.completed}/{task.total}", table_column=fixed()
    ),
    rich_progress.TextColumn("{task.fields[rate]}", table_column=fixed()),
    _Left(compact=True, table_column=fixed()),
    _Note(),
  )
  with rich_progress.Progress(*columns, console=console) as bars:
    task = bars.add_task(
      title[:TITLE],
      total=total,
      completed=start,
      rate="done before" if start >= total else "compiling",
      note="",
    )
    rate = _Rate()

    def update(completed: int, note: str) -> None:
      bars.update(task, completed=completed, rate=rate(completed)[0], note=note)

    yield update


@contextlib.contextmanager
def _lines(
  console: Console, title: str, total: int, start: int
) -> Iterator[Update]:
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
      return f"began in {now - self._begin:.0f} s", 0.0
    steps, seconds = completed - self._first[0], now - self._first[1]
    return f"{steps / max(seconds, 1e-9):,.0f} steps/s", seconds / steps
