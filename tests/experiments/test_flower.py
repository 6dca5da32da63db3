"""Flower beside the simulation: flags, lost answers, processes."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from experiments.federate.flower import __main__ as flower
from experiments.federate.flower import comparison, processes
from tests.packages import package

SMALL = flower.Config(
  examples=90,
  methods=("fedmd",),
  clients=3,
  min_examples=5,
  public_examples=20,
  rounds=3,
  local_epochs=1,
  public_epochs=1,
  server_steps=2,
  hidden=(6,),
)


def small(workdir, **changes):
  return dataclasses.replace(SMALL, workdir=str(workdir), **changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("fedgen",)}, "methods is .*; expected one or more different"),
    ({"clients": 1}, "clients is 1; expected 2 or more"),
    ({"dying_clients": 3}, "dying_clients is 3; expected 0 to 2, since one"),
    ({"timeout": 0.0}, "timeout is 0.0; expected a number above 0"),
    ({}, "the package flwr is missing. Install the extra flower: pip install"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path, monkeypatch):
  monkeypatch.setattr(flower.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=message):
    flower.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_nan_of_one_array_is_no_equality():
  gaps = [np.zeros(2), np.array([0.0, np.nan]), np.ones(1)]
  assert np.isnan(comparison.largest(gaps))
  assert comparison.largest([np.zeros(2), np.array([-3.0])]) == 3.0
  rounds = [{"difference": 0.0}, {"difference": float("nan")}]
  assert "nan" in comparison.headline({"rounds": rounds})
  assert comparison.headline({"rounds": rounds[:1]}) == "bit-equal"


def test_nothing_that_is_started_reports_or_installs(tmp_path):
  found = processes.environment(tmp_path)
  assert found["FLWR_TELEMETRY_ENABLED"] == "0"
  assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
  assert found["FLWR_HOME"].startswith(str(tmp_path))


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
  """Even if it is killed, and even if they ignore a first signal."""
  code = f"""
import os, pathlib
from experiments.federate.flower import processes
made = processes.opened(pathlib.Path({str(tmp_path)!r}))
stubborn = "import signal, time; signal.signal(15, lambda *_: 0)"
processes.start(made, "a", "sleep", "100")
processes.start(made, "b", {sys.executable!r}, "-c",
  stubborn + "; print('ready', flush=True)" + "; time.sleep(1e3)" * 9)
while not pathlib.Path({str(tmp_path)!r}, "b.log").read_text():
  pass
print(*(x.pid for x in made.processes), flush=True)
os.kill(os.getpid(), 9)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=False,
  )
  numbers = [int(x) for x in done.stdout.split()]
  assert len(numbers) == 2, done.stderr
  limit = time.monotonic() + 10
  while any(map(is_running, numbers)) and time.monotonic() < limit:
    time.sleep(0.1)
  assert not any(map(is_running, numbers))


def is_running(number):
  """Whether a process runs; one that nobody has waited for does not."""
  try:
    status = pathlib.Path(f"/proc/{number}/stat").read_text()
  except FileNotFoundError:
    return False
  return status.rpartition(")")[2].split()[0] != "Z"


class DiedError(Exception):
  """Stands for a process that was killed."""


class LocalGrid:
  """Calls the client app in this process; loses what it is told to lose."""

  def __init__(self, apps, config, lost=()):
    app = package("flwr.app")
    self.app, self.apps, self.lost = app, apps, lost
    self.contexts = {
      100 + i: app.Context(
        1, 100 + i, {"client": i}, app.RecordDict(), dict(config)
      )
      for i in range(SMALL.clients)
    }

  def get_node_ids(self):
    return list(self.contexts)

  def send_and_receive(self, messages, *, timeout):
    assert timeout > 0
    for message in messages:
      metadata = message.metadata
      node = metadata.dst_node_id
      context = self.contexts[node]
      before = dict(context.state)
      try:
        reply = self.apps.client_app(message=message, context=context)
      except DiedError:
        # Flower keeps the state that the client had before.
        context.state.clear()
        context.state.update(before)
        error = self.app.Error(code=0, reason="killed")
        yield self.app.Message(error, reply_to=message)
        continue
      known = node - 100, int(metadata.group_id), metadata.message_type
      if known not in self.lost:
        yield reply


def serve(folder, monkeypatch, method, lost=(), **changes):
  """Runs the app in this process; returns what was compared."""
  # Messages name the task that made them, which a process of Flower sets.
  identity = package("flwr.supercore.task_identity").TaskIdentity
  identity.run_id, identity.node_id, identity.task_id = 1, 1, 1
  from experiments.federate.flower import apps

  def die():
    raise DiedError

  monkeypatch.setattr(apps, "die", die)
  config = flower.simulated(small("unused", **changes))
  flags = comparison.flags_of(config, method, 5.0)
  grid = LocalGrid(apps, flags, lost)
  context = types.SimpleNamespace(run_config=flags | {"folder": str(folder)})
  apps.serve(grid, context)
  ended = json.loads((folder / "end.json").read_text())
  return comparison.compare(flags, folder, ended)


def check(row, tolerance=1e-6):
  for number, x in enumerate(row["rounds"]):
    assert x["difference"] <= tolerance * x["largest"], number
    assert x["accuracy"] == pytest.approx(x["simulated_accuracy"])


quiet = pytest.mark.filterwarnings("ignore")


@pytest.mark.packages
@quiet
@pytest.mark.parametrize("method", ["feddf", "fedmd"])
def test_a_client_that_dies_in_every_round(tmp_path, monkeypatch, method):
  row = serve(tmp_path, monkeypatch, method, dying_clients=1)
  check(row)
  answered = [x["answered"] for x in row["rounds"]]
  assert [len(x) for x in answered] == [2] * 3
  for number, (text, alive) in enumerate(
    zip(row["said"], answered, strict=True), 1
  ):
    (dead,) = {0, 1, 2} - set(alive)
    assert text.startswith(f"round {number}: no answer to ")
    assert f"from client {dead}; the round goes on with 2 of 3" in text


@pytest.mark.packages
@quiet
def test_a_client_that_is_too_late_has_trained_for_nothing(
  tmp_path, monkeypatch
):
  lost = {(1, 0, "train"), (2, 1, "query"), (0, 2, "query")}
  row = serve(tmp_path, monkeypatch, "fedmd", lost)
  check(row)
  assert [x["answered"] for x in row["rounds"]] == [[0, 2], [0, 1], [1, 2]]


@pytest.mark.packages
@quiet
def test_logits_count_of_a_client_whose_training_is_too_late(
  tmp_path, monkeypatch
):
  lost = {(1, 1, "train"), (2, 3, "query")}
  row = serve(tmp_path, monkeypatch, "fedmd", lost)
  check(row)
  assert [len(x["answered"]) for x in row["rounds"]] == [3, 2, 3]


@pytest.mark.packages
@quiet
def test_a_round_without_any_answer_changes_nothing(tmp_path, monkeypatch):
  lost = {(i, 1, "train") for i in range(3)}
  row = serve(tmp_path, monkeypatch, "feddf", lost)
  check(row)
  assert [len(x["answered"]) for x in row["rounds"]] == [3, 0, 3]
  files = [np.load(tmp_path / f"round_{i}.npz") for i in range(3)]
  same = [
    all(np.array_equal(a[k], b[k]) for k in a.files if k.startswith("array"))
    for a, b in itertools.pairwise(files)
  ]
  assert same == [True, False]


@pytest.mark.packages
@quiet
def test_a_consensus_without_any_answer_is_the_one_of_before(
  tmp_path, monkeypatch
):
  lost = {(i, 1, "query") for i in range(3)}
  row = serve(tmp_path, monkeypatch, "fedmd", lost)
  check(row)
  assert [len(x["answered"]) for x in row["rounds"]] == [3, 0, 3]


@pytest.mark.packages
@quiet
def test_a_difference_would_show(tmp_path, monkeypatch):
  row = serve(tmp_path, monkeypatch, "feddf", rounds=1)
  check(row)
  path = tmp_path / "round_0.npz"
  with np.load(path) as file:
    arrays = dict(file)
  arrays["array_1"] = arrays["array_1"] + np.float32(1e-3)
  np.savez(path, **arrays)
  flags = comparison.flags_of(
    flower.simulated(small("unused", rounds=1)), "feddf", 5.0
  )
  row = comparison.compare(flags, tmp_path, {"said": [], "bytes": {}})
  assert row["rounds"][0]["difference"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.packages
@quiet
def test_processes_agree_with_the_simulation(tmp_path):
  """Two SuperNodes, a SuperLink and `flwr run`; then nothing is left over."""
  package("flwr")
  config = small(tmp_path, clients=2, rounds=2, methods=("fedavg",))
  rows = flower.execute(flower.prepare(config))
  check(rows["fedavg"])
  assert [x["answered"] for x in rows["fedavg"]["rounds"]] == [[0, 1]] * 2
  report = (tmp_path / "report.md").read_text()
  assert "# 2 clients of Flower beside the simulation" in report
  # A run that is there already starts no process.
  again = dataclasses.replace(config, resume=True)
  assert flower.execute(flower.prepare(again)) == rows
