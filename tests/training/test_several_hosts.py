"""Two processes of two devices each compute as one process computes."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.training.loop import fit_runs, two_hosts

ROOT = pathlib.Path(__file__).parents[2]


def start(folder, action):
  """Starts both processes; what they print goes to files in the folder."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  processes = []
  for rank in range(2):
    with (folder / f"output{rank}").open("w") as output:
      processes.append(
        subprocess.Popen(
          [
            *(sys.executable, "-m", "tests.training.loop.two_hosts", str(rank)),
            *(port, str(folder), action),
          ],
          cwd=ROOT,
          stdout=output,
          stderr=subprocess.STDOUT,
        )
      )
  return processes


def finish(processes, folder, expected=0):
  try:
    codes = [process.wait(300) for process in processes]
  finally:
    for process in processes:
      process.kill()
  said = [(folder / f"output{rank}").read_text()[-2000:] for rank in range(2)]
  assert codes == [expected] * 2, "\n".join(said)


def assert_same(results, name, expected, tolerance=1e-6):
  for path, x in jax.tree_util.tree_leaves_with_path(expected):
    found = results[f"{name}|{jax.tree_util.keystr(path)}"]
    np.testing.assert_allclose(found, x, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_parameters_are_those_of_one_process(tmp_path):
  processes = start(tmp_path, "train")
  learner, state = two_hosts.initial()
  step = jax.jit(learner.step)
  last, losses = two_hosts.train(step, learner, state)
  again, more = two_hosts.train(step, learner, last)
  finish(processes, tmp_path)
  for rank in range(2):
    results = np.load(tmp_path / f"results{rank}.npz")
    for mode in two_hosts.MODES:
      for read in ("whole", "parts"):
        assert_same(results, f"{mode}-{read}", (last.params, losses))
    assert_same(results, "went-on", (again.params, more), 2e-6)
    assert_same(results, "restored", (two_hosts.STEPS, 7))
    # A run that both restored goes on bit for bit.
    for name in results.files:
      if name.startswith("resumed"):
        expected = results[name.replace("resumed", "went-on")]
        np.testing.assert_array_equal(results[name], expected)


@pytest.mark.slow
def test_fit_stops_together_resumes_and_equals_one_process(tmp_path):
  processes = start(tmp_path, "signal")
  expected = {"jit": two_hosts.fit(two_hosts.Stream(), mode=None)}
  for mode, options in two_hosts.PLANNED.items():
    expected[mode] = two_hosts.fit(fit_runs.arrays(), **options)
  finish(processes, tmp_path, 128 + signal.SIGTERM)
  for rank in range(2):
    said = (tmp_path / f"output{rank}").read_text()
    assert "fit: stopped at step 8 of 12 and saved" in said
  finish(start(tmp_path, "fit"), tmp_path)
  for rank in range(2):
    results = np.load(tmp_path / f"results{rank}.npz")
    for mode, (params, metrics) in expected.items():
      assert_same(results, mode, (params, {}), 2e-6)
      assert_same(results, mode, ({}, metrics), 1e-5)
  for mode in expected:
    lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(tmp_path, victim):
  """Rank 0 is the coordinator of `jax.distributed`."""
  processes = start(tmp_path, "steps")
  try:
    begin = time.monotonic()
    while any(
      "running" not in (tmp_path / f"output{i}").read_text() for i in range(2)
    ):
      assert time.monotonic() < begin + 200
      assert all(process.poll() is None for process in processes)
      time.sleep(0.1)
    processes[victim].kill()
    code = processes[1 - victim].wait(60)
  finally:
    for process in processes:
      process.kill()
  assert code != 0
  assert "rror" in (tmp_path / f"output{1 - victim}").read_text()
