"""The folder of a run, and its cells."""

import dataclasses
import io
import sys

import numpy as np
import pytest
from rich.console import Console

from experiments.frame import cells, commands, folders, tables


@dataclasses.dataclass(frozen=True)
class Config(commands.Flags):
  """Flags of a test."""

  rates: tuple[float, ...] = (0.5,)
  methods: tuple[str, ...] = ()


class OtherConfig(Config):
  """Flags of another experiment."""


def quiet():
  return Console(file=io.StringIO(), width=80)


def test_a_folder_forgets_what_is_run_again(tmp_path):
  folder = folders.RunFolder(Config(str(tmp_path / "a" / "b")))
  for step in (1, 2, 3):
    folder.log(stage="students", step=step, loss=np.float32(0.5))
  folder.log(stage="teacher", step=9)
  with (folder.path / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "stu')
  folder.rewind("students", 2)
  lines = (folder.path / "metrics.jsonl").read_text().splitlines()
  assert lines == [
    '{"stage": "students", "step": 1, "loss": 0.5}',
    '{"stage": "students", "step": 2, "loss": 0.5}',
    '{"stage": "teacher", "step": 9}',
  ]
  again = folders.RunFolder(Config(str(folder.path), resume=True))
  assert again.path == folder.path
  with pytest.raises(ValueError, match=r"--rates was \[0.5\] and is \[0.1\]"):
    folders.RunFolder(Config(str(folder.path), resume=True, rates=(0.1,)))


def test_a_run_is_replaced_and_other_files_are_left(tmp_path):
  path = str(tmp_path)
  folder = folders.RunFolder(Config(path))
  folder.log(stage="students", step=1)
  for name in ("cells/kd/0.json", "mine.txt", "accuracy.png"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
  with pytest.raises(ValueError, match=r"has a run already\. Go on with it by"):
    folders.RunFolder(Config(path))
  with pytest.raises(ValueError, match="exclude each other"):
    folders.RunFolder(Config(path, overwrite=True, resume=True))
  folders.RunFolder(Config(path, overwrite=True, rates=(0.1,)))
  left = sorted(x.name for x in tmp_path.iterdir())
  assert left == ["config.json", "mine.txt", "run.lock"]
  # A folder without a run has nothing to be replaced.
  (tmp_path / "new").mkdir()
  (tmp_path / "new" / "mine.png").write_text("")
  folders.RunFolder(Config(str(tmp_path / "new"), overwrite=True))
  assert (tmp_path / "new" / "mine.png").exists()


def test_a_run_of_another_experiment_is_not_resumed(tmp_path, monkeypatch):
  folders.RunFolder(Config(str(tmp_path)))
  monkeypatch.setattr(OtherConfig, "__module__", "experiments.adapt.__main__")
  other = OtherConfig(str(tmp_path), resume=True)
  with pytest.raises(ValueError, match="has a run of experiments") as error:
    folders.RunFolder(other)
  assert "--rates" not in str(error.value)
  assert "not of experiments.adapt" in str(error.value)
  with pytest.raises(ValueError, match=r"has no run to resume\. Leave out"):
    folders.RunFolder(Config(str(tmp_path / "none"), resume=True))


def test_a_workdir_that_cannot_be_made_has_words_and_no_number(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(OSError, match="expected a folder that can") as error:
      folders.RunFolder(Config(str(path)))
    assert "Errno" not in str(error.value)


def test_the_report_says_how_to_run_it_anew(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["x", "--resume", "--rates", "1", "2"])
  console = quiet()
  folder = folders.RunFolder(Config(str(tmp_path)))
  table = tables.Table(("a",), [("1",)])
  hidden = tables.Table(("hidden",), [("2",)], shown=())
  figures = {"a.png": "A caption."}
  folder.publish(console, "T", ["Found."], table, hidden, "", "Text.", figures)
  lines = (tmp_path / "report.md").read_text().splitlines()
  assert lines[:3] == ["# T", "", "- Found."]
  for line in ("| a |", "| hidden |", "Text.", "![A caption.](a.png)"):
    assert line in lines
  command = lines[lines.index("## Reproduction") + 3]
  assert command.endswith(" --rates 1 2")
  assert "--resume" not in command
  assert "- Found." in console.file.getvalue()
  assert "hidden" not in console.file.getvalue()


def test_cells_that_are_done_are_left_out(tmp_path):
  files, console = cells.Cells(tmp_path), quiet()
  names = [("kd", 0), ("kd", 1), ("at", 0)]
  files.write([1], "kd", 1)
  seen = []
  for name, update in files.missing(console, names, steps=2):
    seen.append(name)
    update(2, "a note")
    files.write([2], *name)
  assert seen == [("kd", 0), ("at", 0)]
  assert "resuming: 1 of 3 cells are done" in console.file.getvalue()
  assert "6/6 steps" in console.file.getvalue()
  assert files.read("kd", 1) == [1]
  assert not list(files.missing(console, names))
