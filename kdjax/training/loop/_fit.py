"""A loop over a learner: data in, a trained student out."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from kdjax import ops
from kdjax.training.learners._learner import Learner
from kdjax.training.loop._diagnostics import gradient_cosine_of
from kdjax.training.loop._divergence import FiniteCheck
from kdjax.training.loop._feeds import (
  in_brackets,
  training_feed,
  validation_feeds,
)
from kdjax.training.loop._fit_folder import FitFolder
from kdjax.training.loop._fit_inputs import (
  as_key,
  check_learner,
  check_size,
  explained,
  total_steps,
)
from kdjax.training.loop._interruption import Interruption
from kdjax.training.loop._programs import (
  Sums,
  add,
  compile_,
  devices_of,
  evaluation,
  is_scanned,
  placing,
  scanned_steps,
  sharing,
  single_steps,
  unnamed,
)
from kdjax.training.loop._progress import Progress
from kdjax.training.networks._models import Model, Variables
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.steps import _hosts as hosts
from kdjax.training.steps._state import TrainState

# So many steps are one program: short enough to stop at Ctrl-C soon.
_STEPS_OF_A_SCAN = 50
_EVALUATIONS = 10


class FitResult(NamedTuple):
  """Result of `fit`.

  Attributes:
    model: the trained student, as a `Model`.
    module: the user's NNX module as a copy with the trained weights; None if
      the student was given as something else.
    metrics: name -> values by evaluation, and `"step"`. Names as in
      `metrics.jsonl`; NaN where a value is missing.
    state: the `TrainState` at the end: `averaged_student(state)` has the
      average of the student, `state.network(name)` another trained network.

  References:
    `fit`.
  """

  model: Model
  module: nnx.Module | None
  metrics: dict[str, np.ndarray]
  state: TrainState


def fit(
  learner: Learner,
  data: Any,
  *,
  key: Array,
  batch_size: int | None = None,
  steps: int | None = None,
  epochs: int | None = None,
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

  With a `workdir`, `metrics.jsonl` has a line for each evaluation: `step`,
  `seconds` since the start, the training means since the last line
  (`train/loss`, ...), the validation metrics (`accuracy`, ...) and the
  diagnostics. Ctrl-C and SIGTERM finish the steps under way and save before
  they stop the run, with exit code 130 or 143; the same call goes on from
  there. A damaged checkpoint is not restored: a warning names it, and the run
  goes on from the newest intact one. One process at a time has the folder.

  Args:
    learner: from `distill`, `adapt`, `generalize`,
      `finetune` or `make_learner`.
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
    steps: how many updates; or
    epochs: how often all data are seen, those of the longest domain.
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
      finite, and no checkpoint has it; `"continue"` warns, copies the last
      finite checkpoint to `workdir/finite/checkpoints`, and goes on.
    data_dir: where tfds keeps its prepared data sets.
    verbose: whether to show rate and time left; by default on a terminal.

  Returns:
    A `FitResult`. The networks that were given are not changed.

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

  References:
    `big_vision's train.py <https://github.com/google-research/big_vision>`_.
  """
  check_learner(learner)
  key = as_key(key)
  for name, value in (
    ("evaluate_every", evaluate_every),
    ("checkpoint_every", checkpoint_every),
    ("steps", steps),
    ("epochs", epochs),
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
  init_key, order_key, step_key = jax.random.split(key, 3)
  feed = training_feed(learner, data, batch_size, order_key, data_dir)
  total = total_steps(feed, steps, epochs)
  evaluate_every = min(evaluate_every or -(-total // _EVALUATIONS), total)
  checkpoint_every = checkpoint_every or evaluate_every
  first = feed.first()
  size = check_size(first, batch_size)
  sets = validation_feeds(learner, validation, size, data_dir)
  devices = devices_of(mode, devices, size)
  scanned = is_scanned("data", feed, scan)

  with explained("data", first):
    state = learner.init(init_key, feed.join(first))
  compiled = functools.partial(compile_, mode=mode, devices=devices)
  place, share = placing(mode, devices), sharing(devices)
  several = devices is not None and hosts.process_count(devices) > 1
  leads = not several or jax.process_index() == 0
  frozen = place(dict(learner.frozen))
  evaluate = unnamed(learner.evaluate)
  for name, own in sets.items():
    batch = own.first()
    with explained(in_brackets("validation", name), batch):
      jax.eval_shape(evaluate, state, frozen, batch)
  make = scanned_steps if scanned else single_steps
  advance = make(compiled, learner, feed, frozen, step_key, place)
  measures = {
    name: evaluation(compiled, evaluate, own, frozen, scan, place)
    for name, own in sets.items()
  }
  cosine = None
  if diagnostics:
    cosine = gradient_cosine_of(learner, feed.join(first))
    cosine = cosine and jax.jit(cosine)

  settings = {
    "batch_size": size,
    "key": np.asarray(jax.random.key_data(key)).tolist(),
    "data": feed.describe(),
    "parameters": {
      k: sum(x.size for x in jax.tree.leaves(v))
      for k, v in state.params.items()
    },
    "hyperparameters": _numbers(state.state["objective"]),
  }
  notes = {
    "steps": total,
    "evaluate_every": evaluate_every,
    "checkpoint_every": checkpoint_every,
    "mode": mode or "jit",
    "devices": len(devices or (None,)),
    "scan": scanned,
  }
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(
      FitFolder(workdir, settings, notes, keep=keep, resume=resume)
    )
    interruption = stack.enter_context(Interruption(workdir is not None))
    start, state, position = folder.restore(share(state))
    if start > total:
      raise ValueError(
        f"fit: workdir {str(workdir)!r} is at step {start}, and steps is "
        f"{total}; expected steps from {start} on, or another folder."
      )
    if start:
      feed.resume(position["data"], start)
    sums = _sums_from_json(position.get("sums", {}))
    begin = time.monotonic() - position.get("seconds", 0.0)
    progress = stack.enter_context(
      Progress(total, start, verbose=verbose if leads else False)
    )
    if start:
      progress.say(f"fit: {workdir} goes on at step {start} of {total}")
    batches = None
    if not scanned:
      batches = stack.enter_context(
        contextlib.closing(feed.batches(start, total))
      )
    step = start
    look = FiniteCheck(nan, folder.checkpoints, name="fit")
    # One process alone must not leave a step that all compute together.
    noticed = Interruption(wanted=False) if several else interruption
    # The gradient's cosine reads whole arrays, as its program has no axis.
    whole = share if mode != "pmap" else place
    for stop in _stops(start, total, evaluate_every, checkpoint_every):
      with explained("data", first) if step == start else _NOTHING:
        state, seen, last = advance(state, batches, step, stop, noticed)
      for pairs in seen:
        step += 1
        add(sums, pairs)
        look(step, {k: v for k, (v, _) in pairs.items()})
      line = None
      if step % evaluate_every == 0 or step == total:
        train = _means(sums, "data", needed=step == evaluate_every)
        line = {f"train/{k}": v for k, v in train.items()}
        for name, measure in measures.items():
          seen = _means(measure(state), in_brackets("validation", name))
          line |= {f"{name}/{k}" if name else k: v for k, v in seen.items()}
        if cosine is not None:
          batch = whole(feed.join(last()))
          value = cosine(state, frozen, batch, whole(step_key))
          line["gradient_cosine"] = float(value)
        look(step, line)
        line = {"step": step, **line, "seconds": time.monotonic() - begin}
        folder.log(line)
        sums.clear()
      if several:
        number = hosts.agreed_maximum(interruption.signal or 0)
        interruption.signal = number or None
      stopped = interruption.signal is not None and step < total
      due = step % checkpoint_every == 0 or step == total
      if (due or stopped) and step > folder.saved:
        # A finite loss may have a gradient that is not.
        look(step, {"params": state.params})
        where = {
          "data": feed.position(),
          "sums": _sums_to_json(sums),
          "seconds": time.monotonic() - begin,
        }
        folder.save(step, share(state), where)
      progress.update(step, line)
      if stopped:
        folder.close()
        interruption.stop(
          f"fit: stopped at step {step} of {total} and saved; the same call "
          f"goes on from there, in {str(workdir)!r}."
        )
  return _result(learner, state, folder.lines)


_NOTHING = contextlib.nullcontext()


def _stops(
  start: int, total: int, evaluate_every: int, checkpoint_every: int
) -> Iterator[int]:
  """The steps after which metrics are read; the same for a resumed run."""
  before = 0
  while before < total:
    after = min(
      total,
      *(
        every * (before // every + 1)
        for every in (evaluate_every, checkpoint_every)
      ),
    )
    # Of nearly equal parts, so that few programs are compiled.
    count = -(-(after - before) // _STEPS_OF_A_SCAN)
    part = -(-(after - before) // count)
    stops = [*range(before + part, after, part), after]
    yield from (stop for stop in stops if stop > start)
    before = after


def _means(sums: Sums, name: str, *, needed: bool = True) -> dict[str, float]:
  """Means of metrics with examples; raises ValueError if none has any."""
  means = {k: v / max(n, 1.0) for k, (v, n) in sums.items() if n}
  if needed and sums and not means:
    raise ValueError(
      f"fit: the masks of {name} are False everywhere, so nothing was counted; "
      "expected a True for each example or token that counts, and labels of "
      "tokens other than -100."
    )
  return means


def _sums_to_json(sums: Sums) -> dict[str, list[str]]:
  return {k: [x.hex() for x in pair] for k, pair in sums.items()}


def _sums_from_json(sums: Mapping[str, Any]) -> Sums:
  return {
    k: (float.fromhex(value), float.fromhex(count))
    for k, (value, count) in sums.items()
  }


def _numbers(state: Any) -> dict[str, Any]:
  """The hyper-parameters of an objective, as JSON holds them."""
  numbers: dict[str, Any] = {}
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    scalar = getattr(x, "shape", None) == ()
    if scalar and jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
      value = float(x)
      numbers[name] = value if math.isfinite(value) else str(value)
  return numbers


def _result(
  learner: Learner, state: TrainState, lines: Sequence[Mapping[str, Any]]
) -> FitResult:
  trained = [k for k in state.params if k != "objective"]
  name = "student" if "student" in trained else trained[0]
  variables = _on_one_device(state.network(name))
  forward = learner.loss_fn.forwards[name]
  assert not isinstance(forward, CachedTeacher)  # it is not trained
  model = Model(forward, variables)
  given = learner.modules[name]
  module = (
    _with_weights(given, variables) if isinstance(given, nnx.Module) else None
  )
  names = dict.fromkeys(k for line in lines for k in line)
  metrics = {
    k: np.array(
      [math.nan if line.get(k) is None else line[k] for line in lines]
    )
    for k in names
  }
  return FitResult(model, module, metrics, state)


def _on_one_device(variables: Variables) -> Variables:
  """The variables on the default device, if they are on several."""
  leaves = jax.tree.leaves(variables)
  if all(len(x.devices()) == 1 for x in leaves):
    return variables
  return jax.tree.map(jax.numpy.asarray, jax.device_get(variables))


def _with_weights(module: nnx.Module, variables: Variables) -> nnx.Module:
  """A copy of a module with other weights; its random streams start as its."""
  graph, _, streams, _ = nnx.split(module, nnx.Param, nnx.RngState, ...)
  return nnx.merge(graph, variables.params, streams, variables.state, copy=True)
