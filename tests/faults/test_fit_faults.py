"""Runs of `fit` that are killed, stopped, starved and doubled."""

import json
import os
import random
import resource
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import training
from tests.faults import children
from tests.training.loop import fit_runs

pytestmark = pytest.mark.faults
STEPS, KILLS = 1000, 6
OPTIONS = ("evaluate_every=100", "checkpoint_every=20")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The folder of a run that nothing disturbs."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  children.run(children.FIT, folder, STEPS, *OPTIONS)
  return folder


def newest(folder):
  """The step of the newest checkpoint."""
  names = [x.name for x in (folder / "checkpoints").glob("*")]
  return max((int(x) for x in names if x.isdecimal()), default=0)


def started(folder, after=0):
  """A run that has saved a checkpoint of its own."""
  process = children.start(children.FIT, folder, STEPS, *OPTIONS)
  children.wait_for(lambda: newest(folder) > after, process)
  return process


def test_kills_lose_nothing(whole, tmp_path):
  folder, generator = tmp_path / "run", random.Random(0)
  for _ in range(KILLS):
    process = started(folder, after=newest(folder))
    time.sleep(generator.uniform(0.0, 0.2))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert newest(folder) < STEPS
  children.run(children.FIT, folder, STEPS, *OPTIONS)
  children.assert_same_end(folder, whole)


@pytest.mark.parametrize("kind", ["grid", "stages"])
def test_a_grid_and_stages_that_are_killed_or_stopped_lose_nothing(
  kind, tmp_path
):
  options = ("evaluate_every=100", "checkpoint_every=20", f"{kind}=1")
  whole, folder = tmp_path / "whole", tmp_path / "run"
  children.run(children.FIT, whole, STEPS, *options)

  def saved():
    return newest(folder) + newest(folder / "source")

  generator = random.Random(1)
  for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
    before = saved()
    process = children.start(children.FIT, folder, STEPS, *options)
    children.wait_for(lambda before=before: saved() > before, process)
    time.sleep(generator.uniform(0.0, 0.2))
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGKILL:
      assert process.returncode == -number
    else:
      assert process.returncode == 128 + number
  children.run(children.FIT, folder, STEPS, *options)
  children.assert_same_end(folder, whole)


def test_signals_save_the_step_under_way(whole, tmp_path):
  folder, seen = tmp_path / "run", 0
  for number in (signal.SIGTERM, signal.SIGINT):
    process = started(folder, after=seen)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    children.one_line(errors, "and saved; the same call goes on", str(folder))
    seen = newest(folder)
    assert f"fit: stopped at step {seen} of {STEPS}" in errors
  children.run(children.FIT, folder, STEPS, *OPTIONS)
  children.assert_same_end(folder, whole)


def test_one_run_has_the_folder(whole, tmp_path):
  """And a run that another one cannot disturb is the same to the last bit."""
  folder = tmp_path / "run"
  first = started(folder)
  errors = children.run(children.FIT, folder, STEPS, *OPTIONS, code=2)
  children.one_line(errors, f"is in use by process {first.pid} on ")
  _, errors = first.communicate()
  assert first.returncode == 0, errors
  children.assert_same_end(folder, whole)


def test_files_that_may_not_grow_leave_the_last_checkpoint(whole, tmp_path):
  folder = tmp_path / "run"
  errors = children.run(
    children.FIT, folder, STEPS, *OPTIONS, "limit=60", code=2
  )
  # Above it orbax logs its own tracebacks, which a library leaves alone.
  children.last_line(errors, " cannot be written", "File too large")
  # That of step 40 may not be whole when the limit comes.
  assert newest(folder) in (20, 40)
  children.run(children.FIT, folder, STEPS, *OPTIONS)
  children.assert_same_end(folder, whole)


def test_a_full_disk_leaves_the_last_checkpoint(whole, small_disk):
  folder = small_disk / "run"
  process = started(folder)
  filler, errors = children.starve(process, small_disk)
  assert process.returncode == 2
  # Orbax logs errors of its own threads, before this line or behind it.
  children.a_line(errors, "No space left on device", "are kept")
  seen = newest(folder)
  assert 0 < seen < STEPS
  filler.unlink()
  children.run(children.FIT, folder, STEPS, *OPTIONS)
  children.assert_same_end(folder, whole)


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "locked").mkdir(mode=0o555)
  # Nothing is locked for root, but some of /proc.
  locked = tmp_path / "locked" / "run" if os.getuid() else "/proc/run"
  for path in (tmp_path / "file" / "run", locked):
    errors = children.run(children.FIT, path, STEPS, code=2)
    children.one_line(
      errors, "expected a folder that can be written", str(path)
    )


def test_memory_and_open_files_are_flat(tmp_path):
  folder = tmp_path / "run"
  children.run(
    children.FIT, folder, 10_000, "evaluate_every=100", "measure=500"
  )
  seen = np.array(json.loads((tmp_path / "measured.json").read_text()))
  steps, pages, files = seen.T
  assert steps[-1] == 10_000
  late = steps >= 2000
  # A checkpoint that is being written has files open for a moment.
  assert files[-5:].min() <= files[~late].min(), files
  first, last = (part.mean() for part in np.array_split(pages[late], 2))
  grown = (last - first) * resource.getpagesize() / 2**20
  assert grown < 5, f"{grown:.1f} MB in 8,000 steps"


def exploding(at):
  """A student whose parameters are NaN from a step on; its loss is finite."""

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    value = jnp.mean(outputs["student"].logits ** 2)
    value += jnp.sqrt(jnp.where(state >= at, 0.0, 1.0) * value)
    return value, state + 1, {"loss": (value, jnp.ones(()))}

  from kdjax.methods import Objective

  objective = Objective(lambda key, specs: ({}, jnp.zeros((), int)), apply)
  return training.distill(
    fit_runs.Network(4, 0), None, objective, optax.sgd(0.1)
  )


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
  """The gradient is NaN where the loss is finite."""
  options = {
    "batch_size": fit_runs.BATCH,
    "key": jax.random.key(0),
    "workdir": tmp_path,
    "evaluate_every": 1,
    "diagnostics": False,
  }
  message = r"step 5: params\..*; expected .* The checkpoint of step 4 is kept"
  for _ in range(2):  # A resumed run says the same.
    with pytest.raises(training.DivergedError, match=message):
      training.fit(exploding(4), fit_runs.arrays(), steps=8, **options)
    assert newest(tmp_path) == 4
  with pytest.warns(UserWarning, match="step 5: .* goes on"):
    result = training.fit(
      exploding(4), fit_runs.arrays(), steps=8, nan="continue", **options
    )
  assert newest(tmp_path) == 8
  with training.Checkpoints(tmp_path / "finite" / "checkpoints") as kept:
    step, state, _ = kept.restore(result.state)
  assert step == 4
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert not children.rows(tmp_path)[-1]["train/loss"]
