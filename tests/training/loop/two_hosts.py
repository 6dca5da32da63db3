"""One of two processes of two devices each, for test_several_hosts.py.

`python -m tests.training.loop.two_hosts RANK PORT FOLDER train` trains in all
modes and writes the parameters to FOLDER; `... fit` does so with `fit`; `...
signal` starts that `fit`, and the second process ends itself by SIGTERM; `...
steps` takes steps until it is killed.
"""

import os
import pathlib
import signal
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kdjax import training
from tests.training.loop import fit_runs

MODES = ("jit", "pmap", "shard_map")
BATCH, STEPS = 8, 3


def batches():
  """Three batches of all examples but the last two, which are padding."""
  arrays = fit_runs.arrays(STEPS * BATCH)
  for i in range(STEPS):
    rows = slice(i * BATCH, (i + 1) * BATCH)
    mask = np.arange(BATCH) < (BATCH - 2 if i == STEPS - 1 else BATCH)
    yield {k: v[rows] for k, v in arrays.items()} | {"mask": mask}


def train(step, learner, state, read=lambda batch: batch):
  """The state after the steps, and the metrics of each."""
  seen = []
  for batch in batches():
    state, metrics = step(state, learner.frozen, read(batch), jax.random.key(1))
    seen.append(jax.device_get(metrics["loss"]))
  return state, np.array(seen)


def initial():
  learner = fit_runs.learner()
  first = next(batches())
  return learner, learner.init(jax.random.key(0), first)


def host_parts():
  """Joins the halves that the two processes read."""
  mesh = jax.make_mesh((jax.device_count(),), ("batch",))
  split = NamedSharding(mesh, PartitionSpec("batch"))

  def read(batch):
    half = BATCH // 2
    rows = slice(jax.process_index() * half, (jax.process_index() + 1) * half)
    return {
      k: jax.make_array_from_process_local_data(split, v[rows])
      for k, v in batch.items()
    }

  return read


def main(folder):
  learner, state = initial()
  results = {}
  for mode in MODES:
    step = training.parallelize(learner.step, mode)
    for name, read in (("whole", lambda x: x), ("parts", host_parts())):
      last, losses = train(step, learner, state, read)
      results[f"{mode}-{name}"] = jax.device_get((last.params, losses))
      if mode == "jit" and name == "whole":
        with training.Checkpoints(folder / "checkpoints") as checkpoints:
          checkpoints.save(STEPS, last, {"row": 7})
        with training.Checkpoints(folder / "checkpoints") as checkpoints:
          restored = checkpoints.restore(last)
        results["restored"] = restored.step, restored.position["row"]
        again, losses = train(step, learner, restored.tree)
        results["resumed"] = jax.device_get((again.params, losses))
        again, losses = train(step, learner, last)
        results["went-on"] = jax.device_get((again.params, losses))
  write(folder, results)


def write(folder, results):
  flat = {
    f"{name}|{jax.tree_util.keystr(path)}": x
    for name, tree in results.items()
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  np.savez(folder / f"results{jax.process_index()}.npz", **flat)


class Stream:
  """Batches without end; one process may get a signal while it reads."""

  def __init__(self, read=lambda batch: batch, signal_at=None):
    self._read, self._signal_at = read, signal_at

  def __iter__(self):
    number = 0
    while True:
      for batch in batches():
        number += 1
        if number == self._signal_at:
          os.kill(os.getpid(), signal.SIGTERM)
        yield self._read(batch)


def fit(data, folder=None, **options):
  options = {"steps": 12, "evaluate_every": 4, "verbose": False} | options
  result = training.fit(
    fit_runs.learner(),
    data,
    key=jax.random.key(0),
    workdir=folder,
    validation=fit_runs.arrays(13, seed=1),
    **options,
  )
  metrics = {k: v for k, v in result.metrics.items() if k != "seconds"}
  return result.state.params, metrics


# Mode -> the options of `fit`, but for the stream's.
PLANNED = {
  "shard_map": {"batch_size": BATCH, "scan": True},
  "pmap": {"batch_size": BATCH, "scan": False},
}


def fit_all(folder):
  results = {"jit": fit(Stream(host_parts()), folder / "jit")}
  for mode, options in PLANNED.items():
    data = fit_runs.arrays()
    fit(data, folder / mode, mode=mode, **options | {"steps": 8})
    results[mode] = fit(data, folder / mode, mode=mode, **options)
  write(folder, jax.device_get(results))


def endless():
  learner, state = initial()
  step = training.parallelize(learner.step, "shard_map")
  for i in range(10**9):
    state, losses = train(step, learner, state)
    if i == 2:
      print("running", losses, flush=True)


if __name__ == "__main__":
  _, rank, port, folder, action = sys.argv
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(
    f"localhost:{port}",
    2,
    int(rank),
    initialization_timeout=60,
    heartbeat_timeout_seconds=15,
    shutdown_timeout_seconds=15,
  )
  assert jax.device_count() == 4
  if action == "train":
    main(pathlib.Path(folder))
  elif action == "fit":
    fit_all(pathlib.Path(folder))
  elif action == "signal":
    stop = 6 if rank == "1" else None
    fit(Stream(host_parts(), stop), pathlib.Path(folder) / "jit")
  else:
    endless()
