"""The progress of a loop: a line that stays in place, or lines at times."""

import collections
import importlib.util
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_CHANGES = 0.1
_UPDATES_OF_A_RATE = 10


class Progress:
  """Progress: steps done, rate, time left and the last metrics.

  Args:
    total: the steps of the run.
    start: the step at which it starts.
    verbose: True shows it anywhere, False never, None on a terminal alone.
  """

  def __init__(self, total: int, start: int, *, verbose: bool | None):
    terminal = sys.stderr.isatty()
    self._total = total
    self._shown = terminal if verbose is None else verbose
    self._rate = Rate(start)
    self._note = ""
    self._last = time.monotonic()
    self._bar = None
    if self._shown and terminal and importlib.util.find_spec("rich"):
      self._bar = _Bar(total, start)

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Shows a step, and metrics from now on."""
    self._rate.update(step)
    if metrics is not None:
      self._note = describe(metrics)
    now = time.monotonic()
    done = step >= self._total
    if not self._shown:
      return
    if self._bar is not None:
      if now - self._last >= _SECONDS_BETWEEN_CHANGES or done or metrics:
        self._bar.update(step, self._text(step, _columns() - _Bar.WIDTH))
        self._last = now
    elif metrics is not None or now - self._last >= _SECONDS_BETWEEN_LINES:
      self.say(f"fit: {self._text(step, _columns() - 5)}")
      self._last = now

  def say(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if not self._shown:
      return
    if self._bar is not None:
      self._bar.print(text)
    else:
      print(text, file=sys.stderr, flush=True)

  def __enter__(self) -> "Progress":
    if self._bar is not None:
      self._bar.start(self._text(self._rate.start, _columns() - _Bar.WIDTH))
    return self

  def __exit__(self, *error: Any) -> None:
    if self._bar is not None:
      self._bar.stop()

  def _text(self, step: int, width: int) -> str:
    return fitting(
      f"{step}/{self._total} steps, {self._rate.text(step, self._total)}",
      self._note,
      width,
    )


class Rate:
  """Recent steps a second; the first steps, which compile, do not count."""

  def __init__(self, start: int):
    self.start = start
    self._seen: collections.deque[tuple[int, float]] = collections.deque(
      maxlen=_UPDATES_OF_A_RATE
    )

  def update(self, step: int) -> None:
    """Notes that a step is done."""
    self._seen.append((step, time.monotonic()))

  def text(self, step: int, total: int) -> str:
    """The rate and the time left."""
    if not self._seen:
      return "compiling"
    (before, begin), (now, end) = self._seen[0], self._seen[-1]
    if now == before or end <= begin:
      return "first steps done"
    rate = (now - before) / (end - begin)
    digits = 0 if rate >= 10 else 2
    if step >= total:
      return f"{rate:,.{digits}f}/s"
    return f"{rate:,.{digits}f}/s, {_duration((total - step) / rate)} left"


def describe(metrics: Mapping[str, Any]) -> str:
  """The metrics as a text, the most telling first; of students their mean."""
  names = [k for k in ("accuracy", "train/loss") if k in metrics]
  names += [k for k in metrics if k not in (*names, "step", "seconds")]
  return ", ".join(
    f"{k.removeprefix('train/')} {mean_of(metrics[k]):.4g}"
    for k in names
    if isinstance(metrics[k], float | np.ndarray)
  )


def mean_of(value: Any) -> float:
  """A number, or the mean of those of students that have one."""
  values = np.ravel(value)
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else float("nan")


def fitting(text: str, note: str, width: int) -> str:
  """The text and as many parts of the note as the width has room for."""
  for part in note.split(", ") if note else ():
    longer = f"{text}, {part}"
    if len(longer) > width:
      break
    text = longer
  return text[:width]


class _Bar:
  """A bar by rich."""

  WIDTH = 16

  def __init__(self, total: int, start: int):
    from rich import console, progress

    self._progress = progress.Progress(
      progress.BarColumn(bar_width=self.WIDTH - 2),
      progress.TextColumn("{task.description}"),
      console=console.Console(stderr=True),
    )
    self._task = self._progress.add_task("", total=total, completed=start)

  def start(self, text: str) -> None:
    self._progress.start()
    self._progress.update(self._task, description=text)

  def update(self, step: int, text: str) -> None:
    self._progress.update(self._task, completed=step, description=text)

  def print(self, text: str) -> None:
    self._progress.console.print(text, highlight=False, soft_wrap=True)

  def stop(self) -> None:
    self._progress.stop()


def _columns() -> int:
  return max(40, shutil.get_terminal_size((80, 24)).columns - 1)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours}:{minutes:02}:{seconds:02}"
    if hours
    else (f"{minutes}:{seconds:02}")
  )
