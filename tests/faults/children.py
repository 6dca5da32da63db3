"""Processes that the fault tests start, and what they leave."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
FIT = str(ROOT / "tests" / "faults" / "fit_child.py")
# All children of a session compile the same programs once.
CACHE = os.path.join(tempfile.gettempdir(), f"kdjax-faults-{os.getuid()}")


def start(*arguments, **options):
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": CACHE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  environment.pop("XLA_FLAGS", None)
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=environment,
    **options,
  )


def run(*arguments, code=0, **options):
  """Runs to the end and returns what it printed to stderr."""
  return end(start(*arguments, **options), code)


def end(process, code=0):
  """Waits for the end and returns what the process printed to stderr."""
  output, errors = process.communicate(timeout=300)
  assert process.returncode == code, (process.returncode, output, errors)
  return errors


def starve(process, disk):
  """Fills the disk until the process ends; returns the file, and its stderr."""
  filler = disk / "filler"

  def fill():
    with filler.open("wb", buffering=0) as file:
      while process.poll() is None:
        try:
          file.write(65536 * b"x")
        except OSError:
          time.sleep(0.01)

  thread = threading.Thread(target=fill)
  thread.start()
  _, errors = process.communicate(timeout=300)
  thread.join()
  return filler, errors


def wait_for(condition, process, seconds=120):
  """Waits until a running process has done something."""
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.01)


def last_line(errors, *texts):
  """The last line has the texts."""
  for text in texts:
    assert text in errors.splitlines()[-1], errors


def a_line(errors, *texts):
  """One of the lines has the texts."""
  lines = errors.splitlines()
  assert any(all(text in line for text in texts) for line in lines), errors


def one_line(errors, *texts):
  """There is one line, with the texts."""
  assert len(errors.strip().splitlines()) == 1, errors
  last_line(errors, *texts)


def rows(folder):
  """The rows of metrics.jsonl, which is valid JSON, without their times."""

  def refuse(name):
    raise AssertionError(f"{name} is no JSON")

  lines = (folder / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line, parse_constant=refuse) for line in lines]
  return [{k: v for k, v in x.items() if k != "seconds"} for x in found]


def assert_same_end(folder, expected):
  """Bit for bit the same arrays, and the same rows."""
  with (
    np.load(folder / "final.npz") as actual,
    np.load(expected / "final.npz") as reference,
  ):
    assert actual.files == reference.files
    for name in actual.files:
      np.testing.assert_array_equal(actual[name], reference[name])
  assert rows(folder) == rows(expected)
