"""A loop over a learner: data in, trained students out."""

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from kdjax import methods, ops
from kdjax.training.learners._learner import Learner
from kdjax.training.loop._feeds import fold_in
from kdjax.training.loop._fit_inputs import as_key, check_learner
from kdjax.training.loop._results import FitResult
from kdjax.training.loop._run import Options, train
from kdjax.training.loop._students import as_students


def fit(
  learner: Learner,
  data: Any,
  *,
  key: Array,
  batch_size: int | None = None,
  steps: int | Mapping[str, int] | None = None,
  epochs: int | Mapping[str, int] | None = None,
  students: Mapping[str, Any] | None = None,
  students_at_a_time: int | None = None,
  validation: Any = None,
  evaluate_every: int | None = None,
  workdir: str | os.PathLike[str] | None = None,
  checkpoint_every: int | None = None,
  keep: int = 2,
  resume: bool = True,
  mode: str | None = None,
  devices: Sequence[jax.Device] | None = None,
  scan: bool | None = None,
  diagnostics: bool = True,
  nan: str = "stop",
  data_dir: str | os.PathLike[str] | None = None,
  verbose: bool | None = None,
) -> FitResult:
  """Trains a learner on data: a loop for those who want one.

  The order of the data is a function of the key and the step alone, so a run
  that was killed and resumed on as many devices has bit for bit the result of
  one that was not. Data of an iterator come in the iterator's own order.

  With `students`, all students of a grid are trained as one program: each is
  the one that `fit` alone would train, with its values given to `learner.init`
  and with `key=jax.random.fold_in(key, seed)`. Students of different seeds see
  the data in different orders. A line of `metrics.jsonl` has a list for each
  metric, with null for a student that diverged; the others go on.

  The stages before a method (`learner.stages`) are trained first, each with its
  own key, in `workdir/<stage>`, and `hand_over` leads from one to the next. A
  stage that has ended is restored. Of a grid they have its seeds alone. If the
  method changes its data (`Method.data`) or renews its memory from all target
  examples (`Objective.renew`), `fit` does so before the first step, and before
  each epoch of the target.

  With a `workdir`, `metrics.jsonl` has a line for each evaluation: `step`,
  `seconds` since the start, the training means since the last line
  (`train/loss`, ...), the validation metrics (`accuracy`, ...) and the
  diagnostics. Ctrl-C and SIGTERM finish the steps under way and save before
  they stop the run, with exit code 130 or 143; the same call goes on from
  there. A damaged checkpoint is not restored: a warning names it, and the run
  goes on from the newest intact one. One process at a time has the folder.

  Args:
    learner: from `learner`, `distill`, `adapt`, `generalize` or another door.
    data: the training data: a mapping of arrays such as `{"image": x, "label":
      y}`, each `[n, ...]`; a pair of arrays `(x, y)`; a `kdjax.data.Source` or
      another data set that gives examples by index; a folder of images with a
      sub-folder for each class; the name of a data set for `kdjax.data.load`
      (its split `"train"`); or an iterable of batches, such as those of Grain,
      tf.data or a PyTorch DataLoader: mappings of arrays, or pairs. For a
      learner of several domains a mapping, domain -> data of any of these
      kinds; the shorter one repeats. Masks are added.
    key: a JAX key; the initial weights, the order and all else that is random
      come from it.
    batch_size: examples of a batch, of each domain. The last batch of an epoch
      is filled up, with a mask. Not needed for an iterable of batches.
    steps: how many updates; of a method with stages also a mapping, `{"source":
      500, "adda": 1000}`. Stages that it lacks take as many as the method; or
    epochs: how often all data are seen, those of the longest domain; also a
      mapping. Stages that it lacks take the published number of
      `methods.describe`, or as many as the method.
    students: name -> a value for each student, as `grid(seed=range(8),
      temperature=(1.0, 4.0))` returns them; `"seed"` is 0 by default, and the
      other names are hyper-parameters. The data must be read by index.
    students_at_a_time: how many are computed at once; by default all. On a CPU
      give 1 for convolutions.
    validation: data to evaluate on, of the same kinds (a named data set's split
      `"test"`); or a mapping, name -> data, whose metrics are `name/accuracy`.
    evaluate_every: steps between evaluations; by default there are ten. There
      is always one at the end.
    workdir: the folder of the run, made if missing; None writes nothing.
    checkpoint_every: steps between checkpoints; by default at each evaluation.
    keep: how many checkpoints stay.
    resume: whether to go on where `workdir` has a checkpoint of the same
      settings. A larger number of steps trains longer.
    mode: `"jit"`, `"pmap"` or `"shard_map"` to train on several devices; see
      `parallelize`. By default one device, or `"jit"` on `devices`. On several
      hosts `"jit"` on all devices: every process calls `fit` with the same
      arguments, and a `workdir` that all see. Batches of an iterable are whole
      and the same in every process, or arrays of all devices that
      `jax.make_array_from_process_local_data` joined.
    devices: all by default, if a mode is given.
    scan: whether to run up to 50 steps as one program, with all data on the
      device; by default for data of at most 256 MB.
    diagnostics: whether to log `gradient_cosine`, between the gradient of the
      labels' cross-entropy and that of the loss on one training batch; see
      docs/diagnostics.md.
    nan: `"stop"` raises at the first loss, metric or parameter that is not
      finite, and no checkpoint has it; of several students, when all have such
      a number, and a warning names each before; `"continue"` warns, copies the
      last finite checkpoint to `workdir/finite/checkpoints`, and goes on.
    data_dir: where tfds keeps its prepared data sets.
    verbose: whether to show rate and time left; by default on a terminal.

  Returns:
    A `FitResult`, of several students with one for each in `students`. The
    networks that were given are not changed.

  Raises:
    TypeError: if `learner` is no Learner, or the data are of another kind.
    ValueError: if the settings contradict each other; if the data lack an
      entry that the loss or the metrics read, are empty, or have arrays of
      unequal lengths; if the masks cover nothing until the first evaluation;
      or if an iterator ends before the last step.
    RunError: a ValueError, if `workdir` holds a run of other settings, if its
      files or all its checkpoints are damaged, or if another process has it.
    DivergedError: a RunError, if a loss, metric or parameter is not finite.
    OSError: if `workdir` cannot be written, as on a full disk; checkpoints
      already written stay.

  Examples:
    >>> import numpy as np
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax import data, training
    >>> from kdjax.distillation import kd_loss
    >>> class Network(nnx.Module):
    ...   def __init__(self, width, rngs):
    ...     self.layer = nnx.Linear(64, width, rngs=rngs)
    ...     self.head = nnx.Linear(width, 10, rngs=rngs)
    ...
    ...   def __call__(self, image):
    ...     x = image.reshape(-1, 64) / 255
    ...     return self.head(nnx.relu(self.layer(x)))
    >>> student, teacher = Network(8, nnx.Rngs(0)), Network(64, nnx.Rngs(1))
    >>> train = data.as_arrays(data.load("digits", "train"))
    >>> held_out = data.as_arrays(data.load("digits", "test"))
    >>> learner = training.distill(
    ...   student,
    ...   teacher,
    ...   kd_loss,
    ...   optax.adam(1e-3),
    ...   temperature=4.0,
    ...   alpha=0.9,
    ... )
    >>> result = training.fit(
    ...   learner,
    ...   train,
    ...   batch_size=64,
    ...   steps=20,
    ...   key=jax.random.key(0),
    ...   validation=held_out,
    ... )
    >>> result.metrics["step"]
    array([ 2,  4,  6,  8, 10, 12, 14, 16, 18, 20])
    >>> bool(result.metrics["train/loss"][-1] < result.metrics["train/loss"][0])
    True
    >>> result.module(held_out["image"]).shape
    (599, 10)
    >>> result = training.fit(
    ...   learner,
    ...   train,
    ...   students=training.grid(seed=(0, 1), temperature=(1.0, 4.0)),
    ...   batch_size=64,
    ...   steps=20,
    ...   key=jax.random.key(0),
    ... )
    >>> result.metrics["train/loss"].shape
    (10, 4)
    >>> result.students[1].values
    {'seed': 0, 'temperature': 4.0}

  References:
    `big_vision's train.py <https://github.com/google-research/big_vision>`_.
  """
  check_learner(learner)
  key = as_key(key)
  for name, value in (
    ("evaluate_every", evaluate_every),
    ("checkpoint_every", checkpoint_every),
    ("batch_size", batch_size),
    ("keep", keep),
  ):
    if value is not None:
      ops.check_integer(f"fit: {name}", value, 1)
  ops.check_choice("fit: nan", nan, ("stop", "continue"))
  if (steps is None) == (epochs is None):
    raise ValueError(
      f"fit: steps is {steps} and epochs is {epochs}; expected one of them."
    )
  lengths = _lengths(learner, steps, epochs)
  grid = as_students(students, students_at_a_time)
  options = Options(
    batch_size=batch_size,
    evaluate_every=evaluate_every,
    checkpoint_every=checkpoint_every,
    keep=keep,
    resume=resume,
    mode=mode,
    devices=devices,
    scan=scan,
    diagnostics=diagnostics,
    nan=nan,
    data_dir=data_dir,
    verbose=verbose,
  )
  before: Any = None
  for name, stage in learner.stages.items():
    # The stages before know nothing of the grid but its seeds.
    own, places = (None, None) if grid is None else grid.of_each_seed()
    stage_key = key if own is None else own.keys(key)
    state = train(
      stage,
      before,
      own,
      data,
      validation,
      options,
      key=fold_in(stage_key, zlib.crc32(name.encode())),
      workdir=None if workdir is None else os.path.join(workdir, name),
      **lengths[name],
    ).state
    before = state
  if grid is not None and before is not None:
    before = jax.tree.map(lambda x: x[places], before)
  return train(
    learner,
    before,
    grid,
    data,
    validation,
    options,
    key=key if grid is None else grid.keys(key),
    workdir=workdir,
    **lengths[learner.method.name],
  )


def _lengths(
  learner: Learner, steps: Any, epochs: Any
) -> dict[str, dict[str, int | None]]:
  """The steps or epochs of each stage, by its name."""
  title, given = ("steps", steps) if epochs is None else ("epochs", epochs)
  last = learner.method.name
  names = (*learner.stages, last)
  if not isinstance(given, Mapping):
    given = {last: given}
  odd = [name for name in given if name not in names]
  if odd or last not in given:
    raise ValueError(
      f"fit: {title} is of {', '.join(map(str, given))}; expected those of "
      f"{last!r}"
      + (f", and of the stages {', '.join(names[:-1])}." if names[1:] else ".")
    )
  for name, value in given.items():
    where = f"fit: {title}" if names == (last,) else f"fit: {title}[{name!r}]"
    ops.check_integer(where, value, 1)
  default = given[last]
  if title == "epochs" and learner.stages and last in methods.names():
    default = methods.describe(last).initialization_epochs or default
  both = {"steps": None, "epochs": None}
  return {k: {**both, title: given.get(k, default)} for k in names}
