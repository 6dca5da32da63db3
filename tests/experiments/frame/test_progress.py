"""What a run prints while it goes on."""

import io
import re
import time

import pytest
from rich.console import Console

from experiments.frame import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_rate_and_time_left(terminal, monkeypatch):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
  file = io.StringIO()
  console = Console(file=file, force_terminal=terminal, width=80)
  note = "validation accuracy: scratch 84.1%, best 93.2%, and more text"
  with progress.progress(console, "teacher", 40, start=10) as update:
    for completed in (20, 30, 40):
      update(completed, note)
      time.sleep(0.02)
  text = file.getvalue()
  assert "teacher" in text
  assert "40/40" in text
  assert "steps/s" in text
  assert "validation accuracy" in text
  assert ("\x1b" in text) == terminal
  if not terminal:
    assert " left" in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_bar_fits_its_terminal(width):
  file = io.StringIO()
  console = Console(file=file, force_terminal=True, width=width)
  with progress.progress(console, "resnet20 to resnet8", 10000) as update:
    for completed in range(1000, 9001, 1000):
      time.sleep(0.01)
      update(completed, "validation accuracy: scratch 84.1%, best 93.2%")
    console.print("the end")
  plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
  plain = [x for x in re.split("[\r\n]", plain) if "9000/10000" in x][-1]
  assert sum(plain.count(x) for x in "━╸╺") >= 8
  assert " left" in plain
  assert "steps/s" in plain
  assert len(plain.rstrip()) <= width
  assert "compiling" not in plain


def test_a_stage_that_was_done_before_does_not_compile():
  file = io.StringIO()
  console = Console(file=file, force_terminal=True, width=80)
  with progress.progress(console, "teacher", 40, start=40):
    pass
  assert "done before" in file.getvalue()
  assert "compiling" not in file.getvalue()
