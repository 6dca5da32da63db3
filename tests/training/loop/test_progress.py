import re

import pytest

from kdjax.training.loop import _progress
from kdjax.training.loop._progress import Progress


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test sets."""
  now = [0.0]
  monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
  return now


@pytest.mark.parametrize("columns", [80, 60])
def test_plain_lines_have_rate_time_left_and_metrics(
  clock, capsys, monkeypatch, columns
):
  monkeypatch.setenv("COLUMNS", str(columns))
  metrics = {f"metric_{i}": 0.5 for i in range(9)} | {"accuracy": 0.75}
  with Progress(1000, 100, verbose=True) as progress:
    for step, seconds in ((110, 30.0), (210, 40.0), (310, 50.0)):
      clock[0] = seconds
      progress.update(step, {"step": step, "train/loss": 1.25, **metrics})
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("fit: 110/1000 steps, first steps done")
  # The first steps compile: they are not in the rate.
  assert lines[2].startswith("fit: 310/1000 steps, 10/s, 1:09 left, accuracy")
  assert ("loss 1.25" in lines[1]) == (columns == 80)
  assert all(len(line) < columns for line in lines)


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
  with Progress(10, 0, verbose=None) as progress:
    progress.update(10, {"accuracy": 0.5})
    progress.say("goes on")
  assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_fits_into_80_columns(clock, capsys, monkeypatch):
  pytest.importorskip("rich")
  monkeypatch.setenv("COLUMNS", "80")
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("TERM", "xterm")
  import sys

  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  with Progress(100_000, 0, verbose=None) as progress:
    for step in (10_000, 20_000):
      clock[0] += 3600.0
      metrics = {"accuracy": 0.5, "train/loss": 0.123456, "agreement": 1.0}
      progress.update(step, metrics)
  shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
  last = shown.splitlines()[-1].split("\r")[-1]
  assert "20000/100000 steps, 2.78/s, 8:00:00 left, accuracy 0.5" in last
  assert len(last.rstrip()) <= 80
