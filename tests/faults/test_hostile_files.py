"""Nothing that is loaded executes code: docs/security.md."""

import pathlib

import pytest

from tests.faults import children

pytestmark = pytest.mark.faults
CHILD = children.ROOT / "tests" / "faults" / "hostile_child.py"
MARK = pathlib.Path("/tmp/kdjax-was-here")


def test_hostile_files_are_refused(tmp_path):
  MARK.unlink(missing_ok=True)
  process = children.start(CHILD, tmp_path)
  output, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors[-3000:]
  assert not MARK.exists()
  lines = output.splitlines()
  assert len(lines) == 1 + 15 + 10 + 4, output
  # The names of types and handlers in a checkpoint are not looked at, nor is
  # its sharding: the arrays are those that were saved.
  unread = (
    "checkpoint: types",
    "checkpoint: handlers",
    "checkpoint: pickled s",
  )
  for line in lines:
    assert line.startswith(unread) == line.endswith("harmless"), line


def test_the_watch_sees_a_pickle(tmp_path):
  """The hook would have ended the process."""
  program = (
    "import pickle, sys; from tests.faults import hostile_child as x;"
    "text = pickle.dumps(x.Bomb()); sys.addaudithook(x.watch);"
    "pickle.loads(text)"
  )
  errors = children.run("-c", program, code=99)
  assert "pickle.find_class" in errors
