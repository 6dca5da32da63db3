"""A live progress bar, or plain lines where there is no terminal."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
TITLE = 16  # characters; a longer title of a bar is cut
Update = Callable[[int, str], None]


@contextlib.contextmanager
def progress(
  console: Console, title: str, total: int, *, start: int = 0
) -> Iterator[Update]:
  """Shows how far a loop is, its rate and the time left."""
  terminal, pace, printed = console.is_terminal, _Pace(), time.monotonic()
  width = 28 if console.width >= 120 else 10
  fixed = Column(width=width, no_wrap=True)
  columns = rich_progress.BarColumn(width, table_column=fixed), _Description()
  with rich_progress.Progress(
    *columns, console=console, disable=not terminal
  ) as bars:
    state = "done before" if start >= total else "compiling"
    description = f"{title[:TITLE]} {start}/{total} {state}"
    task = bars.add_task(description, total=total, completed=start)

    def update(completed: int, note: str) -> None:
      nonlocal printed
      done, now = f"{completed}/{total}", time.monotonic()
      rate = pace.describe(completed, total)
      if terminal:
        description = f"{title[:TITLE]} {done}, {rate}; {note}"
        bars.update(task, completed=completed, description=description)
      elif completed >= total or now - printed >= SECONDS_BETWEEN_LINES:
        printed = now
        line = f"{title}: {done} steps, {rate}; {note}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    yield update


class _Description(rich_progress.ProgressColumn):
  """The description, cut to the width that the bar leaves."""

  def render(self, task: rich_progress.Task) -> Text:
    return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Pace:
  """Steps per second since the first round, which is spent on compiling."""

  def __init__(self):
    self._begin = time.monotonic()
    self._first: tuple[int, float] | None = None

  def describe(self, completed: int, total: int) -> str:
    """The rate and, before the end, the time left."""
    now = time.monotonic()
    if self._first is None:
      self._first = (completed, now)
      return f"began in {now - self._begin:.0f} s"
    rate = (completed - self._first[0]) / max(now - self._first[1], 1e-9)
    left = (total - completed) / max(rate, 1e-9)
    shown = datetime.timedelta(seconds=round(left))
    return f"{rate:,.0f} steps/s" + (f", {shown} left" if left else "")
