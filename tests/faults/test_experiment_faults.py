"""Experiments that are killed, stopped, starved, doubled, and that diverge."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.faults import children

pytestmark = pytest.mark.faults
FLAGS = (
  *("--examples_per_class", "2", "--student_hidden", "8", "--seeds", "3"),
  *("--temperatures", "4.0", "--alphas", "0.5", "--evaluate_every", "4"),
  *("--teacher_steps", "40", "--student_steps", "200", "--batch_size", "16"),
)


def arguments(folder, *flags):
  return ("-m", "experiments.distill", *FLAGS, "--workdir", folder, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The folder of a run that nothing disturbs."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  children.run(*arguments(folder))
  return folder


def steps_of(folder):
  """The number of rows of the students."""
  file = folder / "metrics.jsonl"
  return file.read_text().count('"students"') if file.exists() else 0


def started(folder, *flags):
  """A run that has trained its students for some rounds of its own."""
  before = steps_of(folder)
  process = children.start(*arguments(folder, *flags))
  children.wait_for(lambda: steps_of(folder) > before + 2, process)
  return process


def assert_same(folder, whole):
  assert children.rows(folder) == children.rows(whole)


def test_kills_lose_nothing(whole, tmp_path):
  folder, generator = tmp_path / "run", random.Random(0)
  for flags in ((), ("--resume",)):
    process = started(folder, *flags)
    time.sleep(generator.uniform(0.0, 0.3))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  children.run(*arguments(folder, "--resume"))
  assert_same(folder, whole)


def test_signals_save_the_step_under_way(whole, tmp_path):
  folder, flags = tmp_path / "run", ()
  for number in (signal.SIGTERM, signal.SIGINT):
    process = started(folder, *flags)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    notice, saved, hint = filter(None, errors.splitlines())
    assert notice.startswith("stopping after the step under way")
    assert f"students: step {4 * steps_of(folder)} of 200 is saved" in saved
    assert "Go on with: python -m experiments.distill" in hint
    assert hint.endswith(" --resume")
    flags = ("--resume",)
  children.run(*arguments(folder, "--resume"))
  assert_same(folder, whole)


def test_one_run_has_the_folder(whole, tmp_path):
  folder = tmp_path / "run"
  first = started(folder)
  for flag in ("--resume", "--overwrite"):
    errors = children.run(*arguments(folder, flag), code=2)
    children.one_line(errors, "error: ", f"in use by process {first.pid} on ")
  _, errors = first.communicate()
  assert first.returncode == 0, errors
  assert_same(folder, whole)


def test_a_run_that_diverges_says_so(tmp_path):
  folder = tmp_path / "run"
  flags = ("--student_learning_rate", "1e30", "--weight_decay", "0")
  errors = children.run(*arguments(folder, *flags), code=1)
  children.one_line(errors, "error: ", "diverged at step 4 of students: ")
  report = (folder / "report.md").read_text()
  assert report.startswith("# Diverged")
  assert "at step 4 of students: " in report
  assert "loss is nan in 6 of 6" in report
  assert "helped" not in report
  children.rows(folder)
  flags += ("--resume", "--nan", "continue")
  errors = children.run(*arguments(folder, *flags))
  children.one_line(errors, "warning: ", "goes on, with --nan continue")
  report = (folder / "report.md").read_text()
  assert "- Diverged: students." in report
  assert "- Distillation diverged: its scores are not finite." in report
  assert children.rows(folder)[-1]["stage"] == "test"


@pytest.fixture
def small_disk(tmp_path):
  """A file system of some megabytes, where one may be made."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("no right to make a file system")
  yield disk
  subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(whole, small_disk):
  folder = small_disk / "run"
  process = started(folder)
  filler = small_disk / "filler"
  with filler.open("wb", buffering=0) as file:
    while process.poll() is None:
      try:
        file.write(4096 * b"x")
      except OSError:
        time.sleep(0.01)
  _, errors = process.communicate()
  assert process.returncode == 2, errors
  children.one_line(errors, "No space left on device", "Go on with: ")
  filler.unlink()
  children.run(*arguments(folder, "--resume"))
  assert_same(folder, whole)


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "locked").mkdir(mode=0o555)
  locked = tmp_path / "locked" / "run" if os.getuid() else "/proc/run"
  for path in (tmp_path / "file" / "run", locked):
    errors = children.run(*arguments(path), code=2)
    children.one_line(errors, "error: ", "that can be written", str(path))


def test_damaged_files_of_a_folder_are_named(whole, tmp_path):
  """In one line, and nothing is written over."""
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  for file, content in (
    ("metrics.jsonl", '{"step": 4}\n{"stage": "teacher", "step": 4}\n'),
    ("config.json", '{"seed": 0, "wor'),
  ):
    (folder / file).write_text(content)
    errors = children.run(*arguments(folder, "--resume"), code=2)
    children.one_line(errors, file, "expected")
    assert (folder / file).read_text() == content


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(whole, folder)
  checkpoints = folder / "checkpoints" / "students"
  newest = checkpoints / "200" / "tree" / "manifest.ocdbt"
  newest.write_bytes(newest.read_bytes()[:-1])
  errors = children.run(*arguments(folder, "--resume"))
  children.one_line(errors, "warning: ", "step 200 is damaged", "from step 196")
  assert_same(folder, whole)
  for path in checkpoints.iterdir():
    shutil.rmtree(path / "position", ignore_errors=True)
  errors = children.run(*arguments(folder, "--resume"), code=2)
  children.one_line(errors, "error: ", "expected an intact checkpoint")
  assert json.loads((folder / "config.json").read_text())["seed"] == 0
