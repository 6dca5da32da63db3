"""The folder of a run: what is written, and how a run goes on."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from kdjax import training
from kdjax.training.loop._fit_folder import FitFolder
from tests.training.loop import fit_runs

STEPS = 10


def lines_of(path):
  lines = (path / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_seconds(lines):
  return [{k: v for k, v in x.items() if k != "seconds"} for x in lines]


def assert_same_run(result, path, expected):
  """Bit for bit the same weights, and the same lines."""
  jax.tree.map(
    np.testing.assert_array_equal, result.state.params, expected[0].state.params
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    result.state.optimizer_state,
    expected[0].state.optimizer_state,
  )
  lines = without_seconds(lines_of(path))
  assert lines == without_seconds(lines_of(expected[1]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing interrupts, and its folder."""
  path = tmp_path_factory.mktemp("whole")
  return fit_runs.fit(fit_runs.arrays(), path, STEPS), path


@pytest.mark.slow
def test_a_run_writes_its_settings_and_a_line_for_each_evaluation(whole):
  result, path = whole
  lines = lines_of(path)
  assert [line["step"] for line in lines] == [4, 8, 10]
  assert set(lines[0]) == {"step", "seconds", "train/loss"}
  for name in lines[0]:
    assert result.metrics[name].tolist() == [line[name] for line in lines]
  config = json.loads((path / "config.json").read_text())
  assert config["settings"]["batch_size"] == fit_runs.BATCH
  assert config["settings"]["data"]["examples"] == fit_runs.EXAMPLES
  assert config["settings"]["hyperparameters"]["temperature"] == 4.0
  assert config["steps"] == STEPS


@pytest.mark.slow
def test_checkpoints_hold_no_teacher(whole):
  _, path = whole
  (manifest,) = (path / "checkpoints" / "10" / "tree").glob("_METADATA")
  text = manifest.read_text()
  assert "student" in text
  assert "teacher" not in text


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_a_run_goes_on_bit_for_bit(whole, tmp_path, scan, capsys):
  expected = whole
  if scan:
    path = tmp_path / "whole"
    expected = fit_runs.fit(fit_runs.arrays(), path, STEPS, scan=True), path
  path = tmp_path / "parts"
  fit_runs.fit(fit_runs.arrays(), path, 6, scan=scan, evaluate_every=4)
  # What a run that was killed has logged beyond its last checkpoint.
  lines = lines_of(path)
  assert [line["step"] for line in lines] == [4, 6]
  text = json.dumps(lines[0]) + "\n" + '{"step": 8, "train/lo'
  (path / "metrics.jsonl").write_text(text)
  data = fit_runs.arrays()
  result = fit_runs.fit(data, path, STEPS, scan=scan, verbose=True)
  assert f"{path} goes on at step 6 of 10" in capsys.readouterr().err
  jax.tree.map(
    np.testing.assert_array_equal,
    result.state.params,
    expected[0].state.params,
  )
  # A run that is done is read, not trained.
  again = fit_runs.fit(data, path, STEPS, scan=scan)
  assert again.metrics["step"].tolist() == [4, 8, 10]


@pytest.mark.slow
def test_a_stream_goes_on_where_it_was(tmp_path):
  def batches():
    generator = np.random.default_rng(0)
    while True:
      yield fit_runs.arrays(8, generator.integers(99))

  options = {"scan": None}
  expected = fit_runs.fit(batches(), None, 5, **options)
  fit_runs.fit(batches(), tmp_path, 3, **options)
  result = fit_runs.fit(batches(), tmp_path, 5, **options)
  jax.tree.map(
    np.testing.assert_array_equal, result.state.params, expected.state.params
  )


@pytest.mark.slow
def test_a_killed_run_goes_on(whole, tmp_path):
  root = pathlib.Path(__file__).parents[3]
  paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
  done = subprocess.run(
    [sys.executable, fit_runs.__file__, str(tmp_path), str(STEPS)],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join(paths),
      # As in conftest.py: other programs would round otherwise.
      "JAX_NUM_CPU_DEVICES": "8",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  steps = [x.name for x in (tmp_path / "checkpoints").iterdir()]
  assert {"2", "4"} & set(steps)
  assert "6" not in steps
  result = fit_runs.fit(fit_runs.arrays(), tmp_path, STEPS, checkpoint_every=2)
  assert_same_run(result, tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_under_way(
  number, whole, tmp_path, monkeypatch, capsys
):
  raising = fit_runs.at_step(4, lambda: signal.raise_signal(number))
  with monkeypatch.context() as patch:
    patch.setattr(FitFolder, "save", raising)
    with pytest.raises(KeyboardInterrupt) as caught:
      fit_runs.fit(fit_runs.arrays(), tmp_path, STEPS)
  assert isinstance(caught.value, SystemExit)
  assert caught.value.code == 128 + number
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert "fit: stopped at step 5 of 10 and saved; the same call goes on" in line
  assert (tmp_path / "checkpoints" / "5").is_dir()
  assert not (tmp_path / "run.lock").exists()
  result = fit_runs.fit(fit_runs.arrays(), tmp_path, STEPS)
  assert_same_run(result, tmp_path, whole)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 4}, "a run with batch_size = 8, and this one has 4"),
    ({"key": jax.random.key(1)}, r"a run with key = \[0, 0\], and this"),
    ({"resume": False}, "holds a run already; expected resume=True"),
    ({"steps": 9}, "is at step 10, and steps is 9"),
    (
      {"learner": fit_runs.learner(fit_runs.Network(4, 0), temperature=2.0)},
      r"hyperparameters\.temperature = 4\.0, and this one has 2\.0",
    ),
    (
      {"learner": fit_runs.learner(fit_runs.Network(6, 0))},
      r"parameters\.student = ",
    ),
    (
      {"data": fit_runs.arrays(20)},
      r"data\.examples = 26, and this one has",
    ),
  ],
)
def test_a_run_of_other_settings_is_refused_in_one_line(
  whole, options, message
):
  arguments = {
    "learner": fit_runs.learner(fit_runs.Network(4, 0, dropout=0.1)),
    "data": fit_runs.arrays(),
    "batch_size": fit_runs.BATCH,
    "steps": STEPS,
    "key": jax.random.key(0),
    "workdir": whole[1],
  }
  with pytest.raises(ValueError, match=message) as caught:
    training.fit(**(arguments | options))
  assert "\n" not in str(caught.value)


def folder(path, **options):
  return FitFolder(path, {"a": 1}, {}, **{"keep": 1, "resume": True} | options)


def test_a_workdir_that_cannot_be_is_refused_in_words(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "inner"):
    with pytest.raises(FileExistsError, match="a file is in the way") as caught:
      folder(path)
    assert "Errno" not in str(caught.value)
  (tmp_path / "other").mkdir()
  for text in ('{"a": 1}', '{"settings": [1]}'):
    (tmp_path / "other" / "config.json").write_text(text)
    with pytest.raises(training.RunError, match=r"a config\.json that fit did"):
      folder(tmp_path / "other")
  # What is refused has no lock.
  with folder(tmp_path / "new" / "deep") as made:
    assert made.restore({"x": np.ones(2)})[0] == 0
    with pytest.raises(training.RunError, match=r"fit: workdir .* is in use"):
      folder(tmp_path / "new" / "deep")


def test_without_a_folder_lines_are_kept_in_memory(tmp_path):
  with folder(None) as made:
    made.log({"step": 1, "x": float("inf")})
    made.save(1, {}, None)
    assert made.lines == [{"step": 1, "x": None}]
