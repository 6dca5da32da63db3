"""Several processes: arrays of which each holds a part, and agreement."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding


def put(tree: Any, sharding: Sharding) -> Any:
  """Copies arrays to devices, those of other processes too.

  Args:
    tree: arrays that are whole and the same in every process, or that are
      already on these devices, as `jax.make_array_from_process_local_data`
      returns them.
    sharding: of all arrays.

  Returns:
    The arrays on the devices; those in place are not copied.
  """
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x: Any, sharding: Sharding) -> jax.Array:
  if isinstance(x, jax.Array):
    if x.sharding == sharding:
      return x
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      # No host can copy a typed key to the devices of another, only its bits.
      bits = _put(jax.random.key_data(x), sharding)
      return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(x))
    if x.sharding.is_equivalent_to(sharding, x.ndim):
      # The same parts of another mesh, such as one with explicit axes.
      parts = [shard.data for shard in x.addressable_shards]
      return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)
    if not x.is_fully_addressable:
      return jax.device_put(x, sharding)
  x = np.asarray(x, jnp.result_type(x))
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def local_parts(x: Any, axis: int, devices: Sequence[jax.Device]) -> Any:
  """Returns the parts of an array for the devices of this process.

  Args:
    x: an array that is whole in every process, or divided over the devices.
    axis: the axis of the parts, whose size the number of devices divides.
    devices: those of all processes.

  Returns:
    `[..., local devices, size / devices, ...]`, with the first of these axes at
    the place of `axis`.
  """
  own = [i for i, d in enumerate(devices) if _is_local(d)]
  shape = np.shape(x)
  size = shape[axis] // len(devices)
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    shards = {s.device: s.data for s in x.addressable_shards}
    parts = [shards.get(devices[i]) for i in own]
    if any(p is None or p.shape[axis] != size for p in parts):
      raise ValueError(
        f"an array of shape {shape} has the sharding {x.sharding}; expected "
        f"axis {axis} divided over the {len(devices)} devices."
      )
    # The parts are on several devices: `pmap` puts each back on its own.
    return np.stack([np.asarray(p) for p in parts], axis)
  x = x.reshape(*shape[:axis], len(devices), size, *shape[axis + 1 :])
  if len(own) == len(devices):
    return x
  return x[(slice(None),) * axis + (np.array(own),)]


def local_copies(tree: Any) -> Any:
  """Returns copies on one device of arrays that all devices hold."""

  def copy(x: Any) -> Any:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return x.addressable_data(0)
    return x

  return jax.tree.map(copy, tree)


def process_count(devices: Sequence[jax.Device]) -> int:
  """Returns the number of processes that devices belong to."""
  return len({device.process_index for device in devices})


def agreed_maximum(number: int) -> int:
  """Returns the largest number of all processes, which all call this."""
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def _is_local(device: jax.Device) -> bool:
  return device.process_index == jax.process_index()
