"""The main job, reduced: files, resumption, devices, refusals."""

import json
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.distill import __main__ as distill
from experiments.distill import data as distill_data
from experiments.distill import report as distill_report
from experiments.distill import training as distill_training
from experiments.frame import folders
from kdjax.training import Checkpoints
from tests.experiments import runs

SMALL = distill.Config(
  examples_per_class=2,
  missing_digit=3,
  student_hidden=(8,),
  temperatures=(1.0, 4.0),
  alphas=(0.5, 1.0),
  seeds=4,
  teacher_steps=12,
  student_steps=12,
  evaluate_every=4,
  batch_size=16,
  shift=1,
)


run, small = runs.of(distill, SMALL)
reference = runs.reference(run, small)


def rows_of(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def saved(folder, stage):
  """The arrays of a stage's last checkpoint."""
  with Checkpoints(folder / "checkpoints" / stage) as checkpoints:
    manager = checkpoints._manager
    tree = manager.restore(manager.latest_step()).tree
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, _ = reference
  report = (folder / "report.md").read_text()
  for name in ("learning_curves", "heat_map", "reliability", "targets"):
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert f"({name}.png)" in report
  for text in (
    "| teacher | scratch | distilled | gain",
    "test accuracy",
    "accuracy on class 3",
    "agreement with teacher",
    "calibration error",
    "parameters",
    "latency",
    "The 299 validation images chose the cell",
    "Distillation ",
    f"jax {jax.__version__}",
  ):
    assert text in report
  config = json.loads((folder / "config.json").read_text())
  assert config["temperatures"] == [1.0, 4.0]
  rows = rows_of(folder)
  assert [row["stage"] for row in rows] == [
    *["teacher"] * 3,
    *["students"] * 3,
    "test",
  ]
  assert [row["step"] for row in rows] == [4, 8, 12, 4, 8, 12, 0]
  assert len(rows[3]["validation_accuracy"]) == 5


@pytest.mark.slow
def test_the_cell_is_chosen_on_validation_data(reference):
  _, results = reference
  accuracy = results["student_validation"]
  assert accuracy.shape == (3, 4, 5)
  assert results["chosen"] == 1 + accuracy[-1, :, 1:].mean(0).argmax()
  assert results["scores"]["teacher"]["accuracy"].shape == (1,)
  assert results["scores"]["scratch"]["accuracy"].shape == (4,)
  assert results["scores"]["teacher"]["agreement"] == 1
  gain = (
    results["scores"]["distilled"]["accuracy"]
    - results["scores"]["scratch"]["accuracy"]
  )
  np.testing.assert_allclose(results["gain"].mean, gain.mean(), rtol=1e-5)


def test_pairs_share_everything_but_the_teacher():
  data = distill_data.load_data(SMALL)
  labels = np.asarray(data.train["label"])[data.transfer]
  assert data.transfer.shape == (4, 18)
  assert not np.any(labels == 3)
  assert len({tuple(row) for row in data.transfer}) == 4


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(
  reference, tmp_path, monkeypatch, capsys
):
  folder, expected = reference
  log = folders.RunFolder.log

  def die(self, **row):
    if (row["stage"], row["step"]) == ("students", 8):
      with (self.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "stud')
      raise KeyboardInterrupt
    log(self, **row)

  with monkeypatch.context() as patch:
    patch.setattr(folders.RunFolder, "log", die)
    with pytest.raises(KeyboardInterrupt):
      run(small(tmp_path))
  monkeypatch.setattr(distill_report, "draw", lambda job, x: {})
  results = run(small(tmp_path, resume=True))
  output = capsys.readouterr().out
  assert "resuming teacher at step 12 of 12" in output
  assert "resuming students at step 4 of 12" in output
  for stage in ("teacher", "students"):
    before, after = saved(folder, stage), saved(tmp_path, stage)
    assert before.keys() == after.keys()
    for name, leaf in before.items():
      np.testing.assert_array_equal(leaf, after[name], err_msg=name)
  np.testing.assert_array_equal(
    results["student_validation"], expected["student_validation"]
  )
  assert results["gain"] == expected["gain"]
  assert rows_of(tmp_path) == rows_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_devices_change_nothing_but_rounding(
  mode, reference, tmp_path, monkeypatch
):
  folder, _ = reference

  def stop(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(distill, "examine", stop)
  with pytest.raises(KeyboardInterrupt):
    run(small(tmp_path, devices=2, parallel=mode))
  for stage in ("teacher", "students"):
    before, after = saved(folder, stage), saved(tmp_path, stage)
    for name, leaf in before.items():
      np.testing.assert_allclose(
        after[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name
      )
  rows = rows_of(tmp_path)
  for row, expected in zip(rows, rows_of(folder)[:-1], strict=True):
    assert (row["stage"], row["step"]) == (expected["stage"], expected["step"])
    np.testing.assert_allclose(
      row["validation_accuracy"], expected["validation_accuracy"], atol=0.01
    )


@pytest.mark.slow
def test_a_folder_with_a_run_is_not_overwritten(reference, tmp_path):
  folder, _ = reference
  with pytest.raises(ValueError, match=r"--resume, .*--overwrite, .*--workdir"):
    run(small(folder))
  with pytest.raises(ValueError, match="--seeds was 4 and is 6"):
    run(small(folder, resume=True, seeds=6))
  with pytest.raises(ValueError, match="no run to resume"):
    run(small(tmp_path, resume=True))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"student_steps": 13}, "student_steps is 13; expected a multiple of eval"),
    ({"seeds": 3, "devices": 2}, "seeds is 3; expected a multiple of devices"),
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"devices": 0}, "devices is 0; expected a number above 0"),
    ({"evaluate_every": 0}, "evaluate_every is 0; expected a number above 0"),
    ({"alphas": (0.0, 1.0)}, r"alphas is \(0.0, 1.0\); expected"),
    ({"alphas": (1.5,)}, r"alphas is \(1.5,\); expected numbers up to 1"),
    ({"alphas": ()}, r"alphas is \(\); expected one or more"),
    ({"temperatures": ()}, r"temperatures is \(\); expected one or more"),
    ({"temperatures": (-1.0,)}, r"temperatures is \(-1.0,\); expected"),
    ({"temperatures": (2.0, 2.0)}, "temperatures is .* different numbers"),
    ({"examples_per_class": -1}, "examples_per_class is -1; expected 0 or"),
    ({"missing_digit": 10}, "missing_digit is 10; expected a class of digits"),
    ({"student": "nothing"}, "'nothing'; expected one of"),
  ],
)
def test_flags_that_do_not_go_together(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_method_mixes_with_the_labels():
  assert get_args(get_type_hints(distill.Config)["method"]) == tuple(
    distill_training.METHODS
  )
  student, teacher = jnp.array([[1.0, 0.0, -2.0]]), jnp.array([[0.0, 2.0, 1.0]])
  labels = jnp.array([1])
  hard = optax.softmax_cross_entropy_with_integer_labels(student, labels)

  @jax.jit
  def losses():
    return {
      name: [
        loss(logits, teacher, labels, temperature=2.0, alpha=alpha)
        for logits, alpha in ((student, 0.0), (teacher, 1.0), (student, 1.0))
      ]
      for name, loss in distill_training.METHODS.items()
    }

  for none, same, full in losses().values():
    np.testing.assert_allclose(none, hard, rtol=1e-6)
    np.testing.assert_allclose(same, 0.0, atol=1e-6)
    assert full > 0.1
