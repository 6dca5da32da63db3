"""The folder of a run: one process at a time, valid JSON, errors in a line."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.training import RunError, RunFolder, read_json, write_json

CHILD = """
import sys, time
from kdjax.training import RunFolder
folder = RunFolder(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_rows_and_settings_come_back_as_valid_json(tmp_path):
  with RunFolder(tmp_path / "a" / "b") as folder:
    assert folder.read_config() is None
    assert folder.read_rows() == []
    folder.write_config({"rates": (0.1, math.inf)})
    assert folder.read_config() == {"rates": [0.1, None]}
    for step in (1, 2, 3):
      folder.log({"step": step, "x": jnp.float32(0.5), "y": [np.nan, step]})
    # A run was killed while it wrote; the row goes on with the next one.
    file = folder.path / "metrics.jsonl"
    with file.open("a") as stream:
      stream.write('{"step": 4, "x": 0.')
    assert [row["step"] for row in folder.read_rows()] == [1, 2, 3]
    folder.log({"step": 4})
    assert [row["step"] for row in folder.read_rows()] == [1, 2, 3, 4]
    kept = folder.keep_rows(lambda row: row["step"] <= 2)
    assert kept == [{"step": i, "x": 0.5, "y": [None, i]} for i in (1, 2)]
  text = file.read_text()
  assert text == "".join(
    json.dumps(row, allow_nan=False) + "\n" for row in kept
  )
  assert sorted(os.listdir(folder.path)) == ["config.json", "metrics.jsonl"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "is empty"),
    (" \n", "is empty"),
    ('{"a": ', "starts with"),
    ("[1, 2]", r"starts with '\[1, 2\]'"),
    ("null", "starts with"),
    ("\0\x80", "starts with"),
  ],
)
def test_settings_that_are_none_are_refused(text, message, tmp_path):
  (tmp_path / "config.json").write_text(text)
  with (
    RunFolder(tmp_path) as folder,
    pytest.raises(RunError, match=rf"config\.json\' {message}"),
  ):
    folder.read_config()


def test_other_files_of_json(tmp_path):
  file = tmp_path / "cells" / "0.json"
  write_json(file, [1.0, -math.inf, jnp.ones(2)])
  assert read_json(file) == [1.0, None, [1.0, 1.0]]
  with pytest.raises(TypeError):
    write_json(file, object())
  assert read_json(file) == [1.0, None, [1.0, 1.0]]
  file.write_text("[1.0, nul")
  with pytest.raises(RunError, match=r"0\.json' starts with '\[1.0, nul'; exp"):
    read_json(file)


@pytest.mark.parametrize(
  "line",
  ["[1]", "3", "null", "{}", '{"step": "1"}', '{"st', "\x80", 100_000 * "["],
)
def test_a_line_that_is_no_row_is_named(line, tmp_path):
  text = f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'
  (tmp_path / "metrics.jsonl").write_text(text)
  with RunFolder(tmp_path) as folder:
    for read in (folder.read_rows, lambda: folder.keep_rows(bool)):
      with pytest.raises(RunError, match=r"line 2 of metrics\.jsonl") as caught:
        read()
      assert "\n" not in str(caught.value)
  assert (tmp_path / "metrics.jsonl").read_text() == text


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_dead_one_does_not_block(tmp_path):
  root = pathlib.Path(__file__).parents[3]
  with subprocess.Popen(
    [sys.executable, "-c", CHILD, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=root,
    env=os.environ | {"PYTHONPATH": str(root)},
  ) as child:
    assert child.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match=f"in use by process {child.pid} on .*"):
      RunFolder(tmp_path)
    child.kill()
    child.wait()
  # Its file is there, and its lock is not.
  assert str(child.pid) in (tmp_path / "run.lock").read_text()
  with RunFolder(tmp_path):
    assert str(os.getpid()) in (tmp_path / "run.lock").read_text()
    with pytest.raises(RunError, match=f"process {os.getpid()} on"):
      RunFolder(tmp_path)
  with RunFolder(tmp_path):
    pass
  assert not (tmp_path / "run.lock").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only on Linux")
def test_a_full_disk_is_one_line(tmp_path):
  (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
  with (
    RunFolder(tmp_path) as folder,
    pytest.raises(OSError, match=r"metrics\.jsonl in .* No space") as caught,
  ):
    folder.log({"step": 1})
  assert "Errno" not in str(caught.value)
