"""The programs of a run: steps and evaluations, compiled for its devices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from kdjax import ops
from kdjax.training.learners._learner import Learner
from kdjax.training.loop._feeds import Feed
from kdjax.training.loop._students import Students, over
from kdjax.training.steps import _hosts as hosts
from kdjax.training.steps._epochs import scan_epoch, scan_evaluation
from kdjax.training.steps._parallel import parallelize

# Name -> the sum of a metric and the count of its examples; of several students
# an array of each.
Sums = dict[str, tuple[Any, Any]]

# Data up to this size are copied to the device as a whole.
_MOST_BYTES = 256 * 2**20
# So many batches may wait on the device.
_STEPS_AHEAD = 4


def devices_of(
  mode: str | None, devices: Sequence[jax.Device] | None, batch_size: int
) -> tuple[jax.Device, ...] | None:
  """The devices of a parallel run; None for one device as JAX chooses it.

  Several processes, which run the same program, share all devices.
  """
  if mode is not None:
    ops.check_choice("fit: mode", mode, ("jit", "pmap", "shard_map"))
  elif devices is None and jax.process_count() == 1:
    return None
  devices = tuple(jax.devices() if devices is None else devices)
  if not devices:
    raise ValueError("fit: devices is empty; expected at least one.")
  if batch_size % len(devices):
    raise ValueError(
      f"fit: batch_size is {batch_size}; expected a multiple of the "
      f"{len(devices)} devices."
    )
  count = hosts.process_count(devices)
  if count < jax.process_count():
    raise ValueError(
      f"fit: devices belong to {count} of {jax.process_count()} processes; "
      "expected devices of each, as jax.devices() returns them."
    )
  return devices


def is_scanned(name: str, feed: Feed, scan: bool | None) -> bool:
  """Whether all data go to the device; reads sources of data that do."""
  if scan and not feed.planned:
    raise ValueError(
      f"fit: scan is True, and {name} comes in batches; expected arrays or "
      "another data set that is read by index."
    )
  if scan is None:
    small = feed.nbytes <= _MOST_BYTES
    if small:
      feed.load()
    return small
  if scan:
    feed.load()
  return scan


def compile_(
  function: Callable[..., Any],
  split: Mapping[str, int],
  *,
  mode: str | None,
  devices: Sequence[jax.Device] | None,
  donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
  if devices is None:
    return jax.jit(function, donate_argnums=donate)
  return parallelize(
    function,
    mode or "jit",
    split=split,
    devices=devices,
    donate_argnums=donate,
  )


def placing(
  mode: str | None, devices: Sequence[jax.Device] | None
) -> Callable[[Any], Any]:
  """A function that copies arrays to all devices, once for all steps."""
  if devices is None or mode == "pmap":
    return lambda tree: jax.tree.map(jax.numpy.asarray, tree)
  mesh = jax.make_mesh(
    (len(devices),), ("batch",), (AxisType.Auto,), devices=devices
  )
  everywhere = NamedSharding(mesh, PartitionSpec())
  return lambda tree: hosts.put(tree, everywhere)


def sharing(devices: Sequence[jax.Device] | None) -> Callable[[Any], Any]:
  """A function that makes arrays those of all processes, if there are several.

  A checkpoint of several processes holds such arrays alone.
  """
  if devices is None or hosts.process_count(devices) == 1:
    return lambda tree: tree
  return placing("jit", devices)


class Frozen(NamedTuple):
  """The frozen networks that all students share, and those of each student."""

  shared: Any
  own: Any


def own_order(students: Students | None) -> int:
  """The axes of students in front of the plan and the batch of a step."""
  return int(students is not None and not students.one_seed)


def scanned_steps(
  compiled: Any,
  learner: Learner,
  feed: Feed,
  students: Students | None,
  frozen: Frozen,
  key: Array,
  place: Any,
) -> Callable[..., Any]:
  """Some steps as one program, with all data on the device."""
  scanned = scan_epoch(_joined_step(learner, feed))

  def epoch(
    state: Any,
    frozen: Any,
    own: Any,
    data: Any,
    plan: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> Any:
    both = {**frozen, **own}
    return scanned(state, both, data, plan, key, axis_name=axis_name)

  split = {"plan": 1 + own_order(students)}
  call = compiled(over(students, epoch), split, donate=(0,))
  data = place(feed.data())

  def advance(
    state: Any, batches: Any, start: int, stop: int, interruption: Any
  ) -> Any:
    del batches, interruption
    plan = feed.plan(start, stop)
    state, metrics = call(state, *frozen, data, plan, key)
    pairs = jax.device_get(metrics).items()
    seen = [
      {k: (number(v[..., i]), number(n[..., i])) for k, (v, n) in pairs}
      for i in range(stop - start)
    ]
    return state, seen, lambda: feed.batch(stop - 1)

  return advance


def single_steps(
  compiled: Any,
  learner: Learner,
  feed: Feed,
  students: Students | None,
  frozen: Frozen,
  key: Array,
  place: Any,
) -> Callable[..., Any]:
  """Steps one by one, of batches that come from the host."""
  del place
  joined = _joined_step(learner, feed)

  def step(
    state: Any,
    frozen: Any,
    own: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> Any:
    return joined(state, {**frozen, **own}, batch, key, axis_name=axis_name)

  split = {"batch": own_order(students)}
  call = compiled(over(students, step), split, donate=(0,))

  def advance(
    state: Any, batches: Any, start: int, stop: int, interruption: Any
  ) -> Any:
    seen, batch = [], None
    for _ in range(start, stop):
      batch = next(batches)
      state, metrics = call(state, *frozen, batch, key)
      seen.append(metrics)
      if len(seen) > _STEPS_AHEAD:
        jax.block_until_ready(seen[-_STEPS_AHEAD])
      if interruption.signal is not None:
        break
    pairs = [
      {k: (number(v), number(n)) for k, (v, n) in metrics.items()}
      for metrics in jax.device_get(seen)
    ]
    return state, pairs, lambda: batch

  return advance


def _joined_step(learner: Learner, feed: Feed) -> Callable[..., Any]:
  def step(
    state: Any,
    frozen: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> Any:
    batch = feed.join(batch)
    return learner.step(state, frozen, batch, key, axis_name=axis_name)

  return step


def evaluation(
  compiled: Any,
  learner: Learner,
  feed: Feed,
  students: Students | None,
  frozen: Frozen,
  scan: bool | None,
  place: Any,
) -> Callable[[Any], Sums]:
  """Sums and counts of the metrics over a data set."""
  evaluate = evaluation_step(learner)
  if feed.planned and is_scanned("validation", feed, scan):

    def whole(
      state: Any,
      frozen: Any,
      own: Any,
      data: Any,
      plan: Any,
      *,
      axis_name: str | None = None,
    ) -> Any:
      def each(state: Any, frozen: Any, batch: Any) -> Any:
        return evaluate(state, frozen, own, batch, axis_name=axis_name)

      return scan_evaluation(each)(state, frozen, data, plan)

    call = compiled(over(students, whole, "plan"), {"plan": 1})
    data, plan = place(feed.data()), feed.plan(0, feed.steps or 0)

    def measure(state: Any) -> Sums:
      sums = jax.device_get(call(state, *frozen, data, plan))
      return {k: (number(v), number(n)) for k, (v, n) in sums.items()}

    return measure
  call = compiled(over(students, evaluate, "batch"), {"batch": 0})

  def measure_in_turn(state: Any) -> Sums:
    sums: Sums = {}
    for batch in feed.one_pass():
      pairs = jax.device_get(call(state, *frozen, batch))
      add(sums, {k: (number(v), number(n)) for k, (v, n) in pairs.items()})
    return sums

  return measure_in_turn


def evaluation_step(learner: Learner) -> Callable[..., Any]:
  """The evaluation of a batch, with no axis named but by `parallelize`."""

  def evaluate(
    state: Any,
    frozen: Any,
    own: Any,
    batch: Any,
    *,
    axis_name: str | None = None,
  ) -> Any:
    both = {**frozen, **own}
    return learner.evaluate(state, both, batch, axis_name=axis_name)

  return evaluate


def number(x: Any) -> Any:
  """A float; of several students an array of them."""
  return np.asarray(x, np.float64) if np.ndim(x) else float(x)


def add(sums: Sums, pairs: Mapping[str, tuple[Any, Any]]) -> None:
  """Adds step by step, so that the parts of a run do not matter."""
  for name, (value, count) in pairs.items():
    old = sums.get(name, (0.0, 0.0))
    sums[name] = old[0] + value, old[1] + count
