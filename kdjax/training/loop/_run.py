"""One run: a learner, its data, and the states of its students."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from kdjax.training.learners._hand_over import hand_over
from kdjax.training.learners._learner import Learner
from kdjax.training.learners._sweep import sweep
from kdjax.training.loop._diagnostics import gradient_cosine_of
from kdjax.training.loop._divergence import FiniteCheck, StudentsCheck
from kdjax.training.loop._feeds import (
  Feed,
  in_brackets,
  training_feed,
  unread_feed,
  validation_feeds,
)
from kdjax.training.loop._fit_folder import FitFolder
from kdjax.training.loop._fit_inputs import check_size, explained, total_steps
from kdjax.training.loop._interruption import Interruption
from kdjax.training.loop._programs import (
  Frozen,
  Sums,
  add,
  compile_,
  devices_of,
  evaluation,
  evaluation_step,
  is_scanned,
  placing,
  scanned_steps,
  sharing,
  single_steps,
)
from kdjax.training.loop._progress import Progress
from kdjax.training.loop._results import FitResult, result_of
from kdjax.training.loop._students import (
  Students,
  over,
  split_key,
)
from kdjax.training.loop._whole_data import change_data, renewal_of
from kdjax.training.steps import _hosts as hosts
from kdjax.training.steps._state import TrainState

# So many steps are one program: short enough to stop at Ctrl-C soon.
_STEPS_OF_A_SCAN = 50
_EVALUATIONS = 10


class Options(NamedTuple):
  """Options: the arguments of `fit` that all stages share."""

  batch_size: int | None
  evaluate_every: int | None
  checkpoint_every: int | None
  keep: int
  resume: bool
  mode: str | None
  devices: Sequence[jax.Device] | None
  scan: bool | None
  diagnostics: bool
  nan: str
  data_dir: str | os.PathLike[str] | None
  verbose: bool | None


def train(
  learner: Learner,
  before: TrainState | None,
  students: Students | None,
  data: Any,
  validation: Any,
  options: Options,
  *,
  key: Array,
  steps: int | None,
  epochs: int | None,
  workdir: str | os.PathLike[str] | None,
) -> FitResult:
  """Trains one stage.

  Args:
    learner: of the stage.
    before: the state that the stage before left, of each student.
    students: of the run; None for one alone.
    data: the training data.
    validation: the validation data.
    options: of `fit`.
    key: of the student, or `[students]`.
    steps: how many updates; or
    epochs: how often all data are seen.
    workdir: the folder of the stage.

  Returns:
    A `FitResult`.
  """
  batch_size, scan = options.batch_size, options.scan
  mode, data_dir = options.mode, options.data_dir
  init_key, order_key, step_key = split_key(key)
  if students is not None and students.one_seed:
    order_key, step_key = order_key[0], step_key[0]
  feed = training_feed(learner, data, batch_size, order_key, data_dir)
  if students is not None and not feed.planned:
    raise ValueError(
      "fit: students is given, and data comes in batches; expected arrays or "
      "another data set that is read by index."
    )
  total = total_steps(feed, steps, epochs)
  size = check_size(feed.first(), batch_size)
  sets = validation_feeds(learner, validation, size, data_dir)
  unread = unread_feed(learner, data, size, data_dir)
  change_data(learner, feed, unread, sets, before, students)
  if learner.method.data is not None:  # There may be more examples now.
    total = total_steps(feed, steps, epochs)
  evaluate_every = options.evaluate_every or -(-total // _EVALUATIONS)
  evaluate_every = min(evaluate_every, total)
  checkpoint_every = options.checkpoint_every or evaluate_every
  first = feed.first()
  devices = devices_of(mode, options.devices, size)
  scanned = is_scanned("data", feed, scan)

  with explained("data", first):
    state = _begin(learner, before, students, init_key, feed.join(first))
  compiled = functools.partial(compile_, mode=mode, devices=devices)
  place, share = placing(mode, devices), sharing(devices)
  several = devices is not None and hosts.process_count(devices) > 1
  leads = not several or jax.process_index() == 0
  frozen = _frozen(learner, before, students, place)
  for name, own in sets.items():
    batch = own.first()
    with explained(in_brackets("validation", name), batch):
      evaluate = over(students, evaluation_step(learner), "batch")
      jax.eval_shape(evaluate, state, *frozen, batch)
  make = scanned_steps if scanned else single_steps
  advance = make(compiled, learner, feed, students, frozen, step_key, place)
  measures = {
    name: evaluation(compiled, learner, own, students, frozen, scan, place)
    for name, own in sets.items()
  }
  cosine = _cosine(learner, feed, students) if options.diagnostics else None
  # A program without an axis reads whole arrays.
  whole = share if mode != "pmap" else place
  renewal = renewal_of(learner, feed, students, whole)
  epoch, renew = renewal or (total, None)

  settings = {
    "batch_size": size,
    "key": np.asarray(jax.random.key_data(key)).tolist(),
    "data": feed.describe(),
    "parameters": {
      k: sum(x.size for x in jax.tree.leaves(v)) // _count(students)
      for k, v in state.params.items()
    },
    "hyperparameters": _numbers(state.state["objective"], students),
  }
  if students is not None:
    settings["students"] = students.describe()
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
      FitFolder(
        workdir, settings, notes, keep=options.keep, resume=options.resume
      )
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
      Progress(total, start, verbose=options.verbose if leads else False)
    )
    if start:
      progress.say(f"fit: {workdir} goes on at step {start} of {total}")
    batches = None
    if not scanned:
      batches = stack.enter_context(
        contextlib.closing(feed.batches(start, total))
      )
    step = start
    look: Any = FiniteCheck(options.nan, folder.checkpoints, name="fit")
    if students is not None:
      before_now = position.get("diverged", [False] * students.size)
      look = StudentsCheck(look, before_now)
    # One process alone must not leave a step that all compute together.
    noticed = Interruption(wanted=False) if several else interruption
    for stop in _stops(start, total, evaluate_every, checkpoint_every, epoch):
      if renew is not None and step % epoch == 0:
        state = renew(state)
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
          means = _means(measure(state), in_brackets("validation", name))
          line |= {f"{name}/{k}" if name else k: v for k, v in means.items()}
        if cosine is not None:
          arguments = whole(last()), whole(step_key)
          value = np.asarray(cosine(state, *frozen, *arguments), np.float64)
          line["gradient_cosine"] = value if value.shape else float(value)
        look(step, line)
        if isinstance(look, StudentsCheck):
          line = {k: look.hidden(_uncounted(v)) for k, v in line.items()}
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
        if students is not None:
          where["diverged"] = look.diverged.tolist()
        folder.save(step, share(state), where)
      progress.update(step, line)
      if stopped:
        folder.close()
        interruption.stop(
          f"fit: stopped at step {step} of {total} and saved; the same call "
          f"goes on from there, in {str(workdir)!r}."
        )
  return result_of(learner, state, folder.lines, students, look.diverged)


_NOTHING = contextlib.nullcontext()


def _count(students: Students | None) -> int:
  return 1 if students is None else students.size


def _begin(
  learner: Learner,
  before: TrainState | None,
  students: Students | None,
  key: Array,
  batch: Any,
) -> TrainState:
  """The first state, of each student if there are several."""

  def begin(
    key: Array, batch: Any, before: TrainState | None, values: Any
  ) -> TrainState:
    begun = learner if before is None else hand_over(learner, before)
    return begun.init(key, batch, **values)

  if students is None:
    return begin(key, batch, before, {})
  swept = jax.jit(sweep(begin, shared=("batch",)))
  return swept(key, batch, before, students.values)


def _frozen(
  learner: Learner,
  before: TrainState | None,
  students: Students | None,
  place: Any,
) -> Frozen:
  """The frozen networks; those that a stage left are each student's own."""
  shared = dict(learner.frozen)
  if before is None:
    return Frozen(place(shared), {})
  left = hand_over(learner, before).frozen
  own = {k: v for k, v in left.items() if k not in shared}
  if students is None:
    return Frozen(place(shared | own), {})
  return Frozen(place(shared), place(own))


def _cosine(learner: Learner, feed: Feed, students: Students | None) -> Any:
  """The diagnostics of the gradient, compiled; None if there are none."""
  cosine = gradient_cosine_of(learner, feed.join(feed.first()))
  if cosine is None:
    return None
  known = cosine

  def joined(state: Any, frozen: Any, own: Any, batch: Any, key: Array) -> Any:
    return known(state, {**frozen, **own}, feed.join(batch), key)

  return jax.jit(over(students, joined))


def _stops(start: int, total: int, *periods: int) -> Iterator[int]:
  """The steps after which metrics are read; the same for a resumed run."""
  before = 0
  while before < total:
    after = min(
      total,
      *(every * (before // every + 1) for every in periods),
    )
    # Of nearly equal parts, so that few programs are compiled.
    count = -(-(after - before) // _STEPS_OF_A_SCAN)
    part = -(-(after - before) // count)
    stops = [*range(before + part, after, part), after]
    yield from (stop for stop in stops if stop > start)
    before = after


class _Mean(NamedTuple):
  """The mean of a metric of each student, and which students have one."""

  value: np.ndarray
  counted: np.ndarray


def _means(sums: Sums, name: str, *, needed: bool = True) -> dict[str, Any]:
  """Means of metrics with examples; raises ValueError if none has any."""
  means = {k: v / np.maximum(n, 1.0) for k, (v, n) in sums.items() if np.any(n)}
  if needed and sums and not means:
    raise ValueError(
      f"fit: the masks of {name} are False everywhere, so nothing was counted; "
      "expected a True for each example or token that counts, and labels of "
      "tokens other than -100."
    )
  return {
    k: _Mean(v, sums[k][1] > 0) if np.ndim(v) else float(v)
    for k, v in means.items()
  }


def _uncounted(mean: Any) -> Any:
  """A mean with NaN for the students that counted nothing."""
  if not isinstance(mean, _Mean):
    return mean
  return np.where(mean.counted, mean.value, np.nan)


def _sums_to_json(sums: Sums) -> dict[str, list[Any]]:
  def hexadecimal(x: Any) -> Any:
    return [v.hex() for v in x.tolist()] if np.ndim(x) else float(x).hex()

  return {k: [hexadecimal(x) for x in pair] for k, pair in sums.items()}


def _sums_from_json(sums: Mapping[str, Any]) -> Sums:
  def read(x: Any) -> Any:
    if isinstance(x, list):
      return np.array([float.fromhex(v) for v in x])
    return float.fromhex(x)

  return {k: (read(value), read(count)) for k, (value, count) in sums.items()}


def _numbers(state: Any, students: Students | None) -> dict[str, Any]:
  """The hyper-parameters of an objective, as JSON holds them."""
  numbers: dict[str, Any] = {}
  axes = 0 if students is None else 1
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if len(getattr(x, "shape", "no array")) != axes:
      continue
    if jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
      values = [v if math.isfinite(v) else str(v) for v in np.ravel(x).tolist()]
      numbers[name] = values if axes else values[0]
  return numbers
