"""The frame: statistics, progress, folders, commands, figures, rounds."""

import dataclasses
import importlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments import __main__ as experiments
from experiments.frame import cells
from experiments.frame import commands
from experiments.frame import folders
from experiments.frame import plots
from experiments.frame import progress
from experiments.frame import rounds
from experiments.frame import rules
from experiments.frame import statistics
from experiments.frame import tables

ROOT = pathlib.Path(__file__).parents[2]
GAINS = np.array([0.1, 0.11, 0.12, 0.1])


@dataclasses.dataclass(frozen=True)
class Config(commands.Flags):
  """Flags of a test."""

  rates: tuple[float, ...] = (0.5,)
  methods: tuple[str, ...] = ()


class OtherConfig(Config):
  """Flags of another experiment."""


def quiet():
  return Console(file=io.StringIO(), width=80)


# Statistics.


def test_an_interval_is_that_of_a_paired_t_test():
  generator = np.random.default_rng(0)
  treated, control = generator.normal(size=(2, 9))
  gain = statistics.gain_of(treated + 1, control)
  test = stats.ttest_rel(treated + 1, control)
  np.testing.assert_allclose(gain[1:3], test.confidence_interval(0.95))
  np.testing.assert_allclose(gain.p_value, test.pvalue)
  np.testing.assert_allclose(gain.mean, np.mean(gain[1:3]))


def test_holms_correction():
  p_values = [0.01, 0.04, 0.03, 0.005]
  # By hand: 4 * .005, 3 * .01, 2 * .03, and never below the one before.
  expected = [0.03, 0.06, 0.06, 0.02]
  np.testing.assert_allclose(statistics.holm(p_values), expected)
  assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
  assert statistics.holm([]) == []


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    (GAINS, "helped"),
    (-GAINS, "hurt"),
    (GAINS * [1, -1, 1, -1], "unclear"),
    (GAINS[:2], "unknown"),
    (GAINS[:1], "unknown"),
    # Equal gains have no spread to test by; their signs are too few.
    (np.full(2, 0.095), "unknown"),
    (np.full(3, 0.095), "unclear"),
    (np.full(6, 0.095), "helped"),
    # The same up to rounding, which a t-test takes for a spread.
    (np.array([0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7]), "unclear"),
    (np.zeros(5), "unclear"),
    (np.full(5, np.nan), "diverged"),
  ],
)
def test_a_verdict_needs_three_seeds_and_a_spread(differences, verdict):
  gain = statistics.gain_of(0.5 + differences, np.full(len(differences), 0.5))
  assert gain.verdict == verdict
  assert (gain.low is None) == (
    len(differences) < 3 or not np.ptp(differences) > 1e-6
  )
  if verdict == "diverged":
    assert gain.sentence("KD") == "KD diverged: its scores are not finite."
    assert gain.cell() == "diverged"
  if len(differences) < 3:
    assert statistics.TOO_FEW in gain.sentence("KD")
    assert "interval" not in gain.sentence("KD")
    assert gain.cell() == f"{100 * gain.mean:+.1f}"


def test_two_methods_must_show_more_than_one():
  weak = np.array([0.02, 0.05, 0.09, 0.04])
  alone = statistics.gain_of(weak, np.zeros(4))
  assert 0.025 < alone.p_value < 0.05
  both = statistics.compare({"a": weak, "b": weak}, np.zeros(4))
  assert [gain.verdict for gain in both.values()] == ["unclear", "unclear"]
  assert alone.verdict == "helped"


def test_table_words_and_title_say_the_same():
  zero = np.zeros(4)
  scores = {"kd": GAINS, "at": -GAINS, "crd": GAINS * [1, -1, 1, -1]}
  names = {"kd": "KD", "at": "AT", "crd": "CRD"}
  gains = statistics.compare(scores, zero)
  assert statistics.findings(gains, names, "scratch") == [
    "Clearly better than scratch: KD +10.8.",
    "Clearly worse than scratch: AT -10.8.",
    "No clear difference from scratch: CRD +0.2.",
  ]
  title = statistics.headline(gains, names, "scratch")
  assert title == "KD: +10.8 points over scratch"
  assert gains["kd"].cell().endswith(") **+**")
  assert gains["at"].cell().endswith(") **-**")
  assert gains["crd"].cell().endswith(")")
  few = statistics.compare({k: x[:2] for k, x in scores.items()}, zero[:2])
  (finding,) = statistics.findings(few, names, "scratch")
  assert finding.endswith(f"; {statistics.TOO_FEW}.")
  title = statistics.headline(few, names, "scratch")
  assert title == statistics.TOO_FEW.capitalize()
  del gains["kd"]
  title = statistics.headline(gains, names, "scratch")
  assert title == "No method is clearly better than scratch"


def test_mean_and_deviation_as_text():
  text = statistics.mean_std(np.array([0.1, 0.2, 0.3]), scale=100, digits=1)
  assert text == "20.0 ± 10.0"
  assert statistics.mean_std(np.array([0.5])) == "0.50"


def test_a_table_is_the_same_in_the_report_and_on_the_console():
  table = tables.Table(("a", "b", "c"), [("x", "1 **+**", "2")], shown=(0, 1))
  assert table.markdown().splitlines() == [
    "| a | b | c |",
    "| --- | ---: | ---: |",
    "| x | 1 **+** | 2 |",
  ]
  console = quiet()
  console.print(table.console())
  assert "1 +" in console.file.getvalue()
  assert "2" not in console.file.getvalue()


# Progress.


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


# Folders.


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


# Commands.


@pytest.mark.parametrize("error", [ValueError, FileExistsError, OSError])
def test_a_mistake_of_the_users_is_one_line_and_status_2(error, capsys):
  def prepare(config):
    raise error(f"{config} is wrong.\nFix it:\n  so")

  with pytest.raises(SystemExit) as end:
    commands.set_up(prepare, "seeds")
  assert end.value.code == 2
  assert capsys.readouterr().err == "error: seeds is wrong. Fix it: so\n"


def test_a_bug_keeps_its_traceback():
  with pytest.raises(ZeroDivisionError):
    commands.set_up(lambda config: 1 // config, 0)


def test_an_empty_choice_is_refused_with_the_list():
  config = Config("x", methods=())
  message = r"methods is \(\); expected all, or one or more .* of kd, at\."
  with pytest.raises(ValueError, match=message):
    commands.expect_some(config, "methods", ["kd", "at"], also="all, or ")
  config = Config("x", methods=("kd", "kd"))
  with pytest.raises(ValueError, match="different ones"):
    commands.expect_some(config, "methods", ["kd", "at"])


SCRIPT = """
import dataclasses, os, signal, sys, threading, time
from experiments.frame import commands
@dataclasses.dataclass(frozen=True)
class Config(commands.Flags):
  '''Flags.'''
  methods: tuple[str, ...] = ()
def execute(job):
  os.kill(os.getpid(), signal.{name})
  time.sleep(30)
sys.argv = ["x", *{arguments}]
commands.launch(
  Config, lambda x: x, execute, lambda: {{"kd": ("logits", "KD")}}
)
"""


def launch(name, *arguments, script=SCRIPT):
  return subprocess.run(
    [sys.executable, "-c", script.format(name=name, arguments=arguments)],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=100,
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_is_one_line_that_says_how_to_go_on(name):
  done = launch(name, "--workdir", "runs/mine")
  assert done.returncode == 128 + getattr(signal, name)
  assert done.stderr.strip().splitlines() == [
    "stopped. Go on with: python -m experiments --workdir runs/mine --resume"
  ]


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_compilation():
  """Nor for any call in which Python handles no signal."""
  # The second lock of a mutex waits for ever.
  lock = "ctypes.CDLL(None).pthread_mutex_lock(mutex)"
  wait = f"mutex = ctypes.create_string_buffer(64); {lock}; {lock}"
  kill = "os.kill(os.getpid(), signal.SIGINT)"
  timer = f"threading.Timer(1, lambda: {kill}).start()"
  script = SCRIPT.replace("time.sleep(30)", wait)
  script = script.replace("os.kill(os.getpid(), signal.{name})", timer)
  done = launch("SIGINT", script=script.replace("sys,", "sys, ctypes,"))
  assert done.returncode == 130
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_methods_help_lists_the_methods():
  done = launch("SIGINT", "--methods", "help")
  assert done.returncode == 0
  assert done.stdout.split() == [
    *("method", "area", "description"),
    done.stdout.split()[3],  # the rule
    *("kd", "logits", "KD"),
  ]


@pytest.mark.parametrize("name", experiments.summaries())
def test_every_flag_is_explained(name, monkeypatch, capsys):
  module = importlib.import_module(f"experiments.{name}.__main__")
  monkeypatch.setattr(sys, "argv", [name, "--help"])
  with pytest.raises(SystemExit):
    commands.parse(module.Config)
  text = capsys.readouterr().out
  assert "usage: python -m " in text
  helps = dict(re.findall(r"\W+--(\w+)(.*?)(?=\n\W*--|\Z)", text, re.DOTALL))
  for field in dataclasses.fields(module.Config):
    # More than the kind of the value and the default.
    words = re.sub(r"\(default:.*?\)", "", helps[field.name], flags=re.DOTALL)
    assert len(re.findall("[a-z]+", words)) > 1, field.name
  # A flag without a value has its default in words.
  nones = text.count("(default: None)")
  assert nones == (name == "distill")  # no missing digit


def test_the_experiments_are_listed_with_a_line_each():
  lines = experiments.summaries()
  assert list(lines) == [
    "adapt",
    "collaborate",
    "compare",
    "continual",
    "cross_modal",
    "cross_task",
    "diffuse",
    "distill",
    "distill_audio",
    "distill_encoder",
    "distill_lm",
    "federate",
    "finetune",
    "finetune_encoder",
    "generalize",
    "gradual",
    "progressive",
    "shifts",
  ]
  assert all(line.endswith(".") for line in lines.values())


def test_use_devices_says_how_many_there_are():
  assert commands.use_devices(2) == tuple(jax.devices()[:2])
  with pytest.raises(ValueError, match=r"devices is 99; expected 1 to \d"):
    commands.use_devices(99)


def test_convolutions_are_swept_one_by_one_on_a_cpu():
  assert commands.students_at_a_time("mlp") is None
  assert commands.students_at_a_time("convnet") == 1


# Figures; `conftest` looks at each one.


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("methods", [1, 20])
def test_bars_keep_their_labels_on_the_canvas(tmp_path, seeds, methods):
  generator = np.random.default_rng(0)
  rates = {
    f"method {i}": generator.uniform(0.02, 1, seeds) for i in range(methods)
  }
  rates["a name that is rather long"] = np.ones(seeds)
  groups = {name: f"group {i % 5}" for i, name in enumerate(rates)}
  plots.accuracy_bars(
    tmp_path / "bars.png",
    rates,
    groups=groups,
    colours=dict(zip(sorted(set(groups.values())), plots.SERIES, strict=False)),
    oracles=rates,
    oracle_label="weight chosen with target labels",
    reference="a name that is rather long",
    title="A finding in so many words that they do not fit into a line of it",
  )
  assert (tmp_path / "bars.png").stat().st_size > 10_000


# Rules and rounds.


def test_rules_choose_without_target_labels():
  scores = {
    "source_accuracy": np.array([0.95, 0.94, 0.97, 0.10]),
    "information": np.array([1.0, 1.9, 1.5, 2.2]),
  }
  expected = {"source_accuracy": 2, "information": 3, "guarded": 2}
  for rule, index in expected.items():
    assert rules.choose(rule, scores) == index


@pytest.mark.slow
def test_planned_steps_are_whole_epochs_in_new_orders():
  plan = rounds.plan_steps(jax.random.key(0), 5, 3, 5)
  index, mask = (np.asarray(plan[name]) for name in ("index", "mask"))
  assert index.shape == mask.shape == (5, 3)
  epochs = [index[i : i + 2][mask[i : i + 2]] for i in (0, 2)]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(5))
  assert not np.array_equal(*epochs)
