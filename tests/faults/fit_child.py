"""A run of `fit` that the fault tests kill, starve and compare.

`python fit_child.py FOLDER STEPS [name=value ...]` trains in the folder and
writes what it ends with to `final.npz`. The options are those of `fit`, and
`limit=STEP`: from this step on no file may grow beyond some bytes;
`measure=STEPS`: writes memory and open files every so many steps; `grid=1`:
trains several students; `stages=1`: a stage comes before.
"""

import json
import os
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import methods, training
from kdjax.training.loop._fit_folder import FitFolder
from tests.training.loop import fit_runs

FEW_BYTES = 300


def limit_files_from(step):
  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (FEW_BYTES, FEW_BYTES))

  FitFolder.save = fit_runs.at_step(step, limit)


def measure_every(steps, file):
  """Notes the resident memory in pages and the number of open files."""
  log, seen = FitFolder.log, []

  def log_and_measure(folder, line):
    log(folder, line)
    if line["step"] % steps == 0:
      pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
      files = len(os.listdir("/proc/self/fd"))
      seen.append((line["step"], int(pages), files))
      file.write_text(json.dumps(seen))

  FitFolder.log = log_and_measure


def stages():
  """A learner with a stage on the source before that on both domains."""
  first = methods.from_loss(task, {"student": None})
  both = methods.from_loss(aligned, {"student": None})
  return training.learner(
    both._replace(before={"source": first}),
    fit_runs.Network(4, 0, dropout=0.1),
    optax.sgd(0.05, 0.9),
  )


def task(source_logits, source_labels):
  labels = jax.nn.one_hot(source_labels, fit_runs.CLASSES)
  return jnp.sum((source_logits - labels) ** 2, -1)


def aligned(source_logits, target_logits, source_labels, *, axis_name):
  del axis_name
  gap = jnp.sum((source_logits.mean(0) - target_logits.mean(0)) ** 2)
  return jnp.mean(task(source_logits, source_labels)) + gap


def main(folder, steps, options):
  options = {k: int(v) if v.isdecimal() else v for k, v in options}
  if "limit" in options:
    limit_files_from(options.pop("limit"))
  if "measure" in options:
    measure_every(options.pop("measure"), folder.with_name("measured.json"))
  data, own = fit_runs.arrays(), None
  if options.pop("grid", 0):
    options["students"] = training.grid(seed=(0, 3), temperature=(1.0, 4.0))
  if options.pop("stages", 0):
    data, own = {"source": data, "target": fit_runs.arrays(seed=3)}, stages()
  try:
    result = fit_runs.fit(data, folder, steps, own=own, **options)
  except (training.RunError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
  leaves = jax.tree.leaves((result.state.params, result.state.optimizer_state))
  np.savez(folder / "final.npz", *leaves)


if __name__ == "__main__":
  _, name, number, *rest = sys.argv
  main(pathlib.Path(name), int(number), [x.split("=") for x in rest])
