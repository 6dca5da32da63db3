"""No public function answers a wrong argument with an error of others."""

import subprocess
import sys

import pytest

from tests import documented

# The changes that are refused before anything is computed. `python -m
# tests.bad_input` makes all of them.
CHANGES = ("string", "None", "object", "scalar")


@pytest.mark.slow
def test_wrong_arguments_are_named():
  """In a process of its own: here beartype would refuse them first."""
  result = subprocess.run(
    [sys.executable, "-m", "tests.bad_input", "--changes", *CHANGES],
    capture_output=True,
    text=True,
    cwd=documented.ROOT.parent,
    check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert "| all | " in result.stdout
