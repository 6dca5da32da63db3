"""What the scripts share: statistics, progress, the run folder, rounds."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments.frame import commands
from experiments.frame import progress
from experiments.frame import rounds
from experiments.frame import statistics


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str
  resume: bool = False
  rates: tuple[float, ...] = (0.5,)


def test_paired_interval_is_that_of_a_paired_t_test():
  generator = np.random.default_rng(0)
  treated, control = generator.normal(size=(2, 9))
  interval = statistics.paired_interval(treated + 1, control)
  expected = stats.ttest_rel(treated + 1, control).confidence_interval(0.95)
  np.testing.assert_allclose(interval[1:], expected)
  np.testing.assert_allclose(interval.mean, np.mean(interval[1:]))
  assert statistics.paired_interval(treated[:1], control[:1]).low == -np.inf


@pytest.mark.parametrize(
  ("low", "high", "words"),
  [
    (0.01, 0.03, "Distillation helped: +2.00 points"),
    (-0.01, 0.05, "Distillation did not help: the interval of its gain inclu"),
    (-0.03, -0.01, "Distillation did not help, it hurt: -2.00 points"),
  ],
)
def test_a_verdict_needs_an_interval_without_zero(low, high, words):
  interval = statistics.Interval((low + high) / 2, low, high)
  assert statistics.verdict("Distillation", interval).startswith(words)


def test_one_seed_concludes_nothing():
  interval = statistics.paired_interval(np.array([0.6]), np.array([0.5]))
  assert statistics.verdict("Distillation", interval) == (
    "Distillation gained +10.00 points; one seed: nothing can be concluded."
  )
  assert statistics.gain(interval, 2) == "+0.10 (one seed)"
  known = statistics.Interval(1.0, 0.5, 1.5)
  assert statistics.gain(known, 1) == "+1.0 (+0.5 to +1.5)"


def test_convolutions_are_swept_one_by_one_on_a_cpu():
  assert commands.students_at_a_time("mlp") is None
  assert commands.students_at_a_time("convnet") == 1


def test_mean_and_deviation_as_text():
  text = statistics.mean_std(np.array([0.1, 0.2, 0.3]), scale=100, digits=1)
  assert text == "20.0 ± 10.0"
  assert statistics.mean_std(np.array([0.5])) == "0.50"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_rate_and_time_left(terminal, monkeypatch):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
  file = io.StringIO()
  console = Console(file=file, force_terminal=terminal, width=110)
  with progress.progress(console, "teacher", 40, start=10) as update:
    for completed in (20, 30, 40):
      update(completed, "accuracy 90%")
  text = file.getvalue()
  assert "teacher" in text
  assert "40/40 steps" in text
  assert "steps/s" in text
  assert "left" in text
  assert "accuracy 90%" in text
  assert ("\x1b" in text) == terminal


def test_a_folder_forgets_what_is_run_again(tmp_path):
  folder = commands.RunFolder(Config(str(tmp_path / "a" / "b")))
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
  again = commands.RunFolder(Config(str(folder.path), resume=True))
  assert again.path == folder.path
  with pytest.raises(ValueError, match=r"--rates was \[0.5\] and is \[0.1\]"):
    commands.RunFolder(Config(str(folder.path), resume=True, rates=(0.1,)))


def test_use_devices_says_how_many_there_are():
  assert commands.use_devices(2) == tuple(jax.devices()[:2])
  with pytest.raises(ValueError, match=r"devices is 99; expected 1 to \d"):
    commands.use_devices(99)


def test_planned_steps_are_whole_epochs_in_new_orders():
  plan = rounds.plan_steps(jax.random.key(0), 5, 3, 5)
  index, mask = (np.asarray(plan[name]) for name in ("index", "mask"))
  assert index.shape == mask.shape == (5, 3)
  epochs = [index[i : i + 2][mask[i : i + 2]] for i in (0, 2)]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(5))
  assert not np.array_equal(*epochs)


@pytest.mark.parametrize(
  "error", [ValueError, FileExistsError, FileNotFoundError]
)
def test_a_mistake_of_the_users_is_one_line_and_status_2(error, capsys):
  def prepare(config):
    raise error(f"{config} is wrong.")

  with pytest.raises(SystemExit) as end:
    commands.set_up(prepare, "seeds")
  assert end.value.code == 2
  assert capsys.readouterr().err == "error: seeds is wrong.\n"


def test_a_bug_keeps_its_traceback():
  with pytest.raises(ZeroDivisionError):
    commands.set_up(lambda config: 1 // config, 0)
