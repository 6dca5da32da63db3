"""One program on many devices: the same function, the caller's choice how."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdjax import ops
from kdjax.training.learners._learner import Learner
from kdjax.training.steps import _hosts as hosts


def parallelize(
  function: Any,
  mode: str,
  *,
  split: Mapping[str, int] | None = None,
  join: int | None = None,
  axis_name: str = "batch",
  devices: Sequence[jax.Device] | None = None,
  donate_argnums: int | Sequence[int] = (),
) -> Any:
  """Parallel form of a step, an epoch or an evaluation, compiled.

  Arguments are split over the devices along an axis or copied to all of them.
  Under `"jit"` the function sees whole arrays, and knows no axis name. Under
  `"pmap"` and `"shard_map"` it sees one device's part and reduces over the
  mapped axis: a function with the keyword `axis_name`, as the steps, epochs and
  evaluations of this module have it, is given the name here and hands it down
  to the loss, to batch statistics and to the metrics.

  On several hosts, after `jax.distributed.initialize`, every process calls the
  function with the same arguments: arrays that are whole, and equal in every
  process; or arrays of all devices, such as a batch that
  `jax.make_array_from_process_local_data` joined, of which each process has
  read its part.

  Args:
    function: called with positional arguments only; or a `Learner`,
      whose `step` and `evaluate` become parallel.
    mode: `"jit"`, `"pmap"` or `"shard_map"`.
    split: parameter name -> the axis that is split over devices, whose size
      the number of devices must divide. By default `"batch"` along axis 0 and
      an epoch's `"plan"` along axis 1; a batch of several domains, `[domains,
      batch, ...]`, along axis 1. To give each device some students of a
      sweep, and no axis name: `{"state": 0, "key": 0}` with `join=0`.
    join: the axis along which outputs are joined; by default they are the same
      on every device.
    axis_name: the name of the mapped axis.
    devices: all by default.
    donate_argnums: arguments whose memory the outputs may take. What was
      copied from the same array elsewhere may go with it.

  Returns:
    A function of the same arguments; its outputs can be fed back.

  Raises:
    ValueError: if the mode is unknown, or no or unknown parameters are split;
      if outputs are joined by `"pmap"` over several processes; from the call,
      if the devices do not divide an axis.

  Examples:
    >>> def step(state, batch):
    ...   return state + jax.lax.psum(batch.sum(), "batch")
    >>> step = parallelize(step, "shard_map", devices=jax.devices()[:1])
    >>> step(jax.numpy.array(1.0), jax.numpy.arange(4.0))
    Array(7., dtype=float32)

  References:
    `jax.shard_map, jax.pmap and sharded jax.jit
    <https://docs.jax.dev/en/latest/sharded-computation.html>`_.
  """
  ops.check_choice("parallelize: mode", mode, ("jit", "pmap", "shard_map"))
  if isinstance(function, Learner):
    options: dict[str, Any] = {"axis_name": axis_name, "devices": devices}
    return function._replace(
      step=parallelize(
        function.step,
        mode,
        split=split,
        donate_argnums=donate_argnums,
        **options,
      ),
      evaluate=parallelize(function.evaluate, mode, **options),
      mapped="parallel",
    )
  parameters = inspect.signature(function).parameters
  # A step of several domains says that its batch axis is behind theirs.
  batch_axis = getattr(function, "batch_axis", 0)
  if "axis_name" in parameters:
    # Functions of the whole batch know no axis, and neither do the students
    # of a sweep that are split over devices.
    reduces = mode != "jit" and join is None
    named = axis_name if reduces else None
    function = functools.partial(function, axis_name=named)
    parameters = {k: v for k, v in parameters.items() if k != "axis_name"}
  names = tuple(parameters)
  if split is None:
    known = {"batch": batch_axis, "plan": 1}
    split = {k: v for k, v in known.items() if k in names}
  if not split or not set(split) <= set(names):
    raise ValueError(
      f"parallelize: split is {dict(split)}; expected some of the "
      f"function's parameters {names}."
    )
  devices = tuple(jax.devices() if devices is None else devices)
  axes = tuple(split.get(name) for name in names)
  if mode == "pmap":
    several = hosts.process_count(devices) > 1
    if join is not None and several:
      raise ValueError(
        f"parallelize: join is {join}, mode is 'pmap', and the devices are of "
        f"{hosts.process_count(devices)} processes; expected mode 'jit' or "
        "'shard_map'."
      )
    mapped = jax.pmap(
      function,
      axis_name=axis_name,
      in_axes=axes,
      out_axes=join,
      devices=devices,
      # Of several processes JAX's pmap reads arrays that it has just donated.
      donate_argnums=() if several else donate_argnums,
    )

    @functools.wraps(function)
    def call(*args: Any) -> Any:
      _check_divisible(names, axes, args, len(devices))
      folded = tuple(map(functools.partial(_fold, devices), args, axes))
      return _unfold(mapped(*folded), join)

    return call

  # Explicit axes, the default of make_mesh, would ask every loss for shardings.
  mesh = jax.make_mesh(
    (len(devices),), (axis_name,), (AxisType.Auto,), devices=devices
  )
  specs = tuple(_spec(axis, axis_name) for axis in axes)
  shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
  out_spec = _spec(join, axis_name)
  if mode == "shard_map":
    function = jax.shard_map(
      function, mesh=mesh, in_specs=specs, out_specs=out_spec
    )
  compiled = jax.jit(
    function,
    out_shardings=NamedSharding(mesh, out_spec),
    donate_argnums=donate_argnums,
  )

  @functools.wraps(function)
  def call(*args: Any) -> Any:
    _check_divisible(names, axes, args, len(devices))
    # Arrays that are in place already are not copied.
    return compiled(*map(hosts.put, args, shardings))

  return call


def _spec(axis: int | None, axis_name: str) -> PartitionSpec:
  if axis is None:
    return PartitionSpec()
  return PartitionSpec(*[None] * axis, axis_name)


def _fold(devices: Sequence[jax.Device], tree: Any, axis: int | None) -> Any:
  """Splits an axis into one of devices and one of each device's part."""
  if axis is None:
    return hosts.local_copies(tree)
  return jax.tree.map(lambda x: hosts.local_parts(x, axis, devices), tree)


def _unfold(tree: Any, axis: int | None) -> Any:
  """Merges the axis of devices with the one after it."""
  if axis is None:
    return tree
  return jax.tree.map(
    lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), tree
  )


def _check_divisible(
  names: Any, axes: Any, args: Any, num_devices: int
) -> None:
  for name, axis, tree in zip(names, axes, args, strict=True):
    for leaf in jax.tree.leaves(tree) if axis is not None else ():
      shape = np.shape(leaf)
      if len(shape) <= axis or shape[axis] % num_devices:
        raise ValueError(
          f"{name} has an array of shape {shape}; expected axis {axis} to "
          f"be divisible by {num_devices} devices."
        )
