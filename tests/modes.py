"""One batch in every mode of JAX: the values and gradients, side by side.

`python -m tests.modes` writes the table of docs/reliability.md. The laws in
`test_modes.py` ask the same of single functions.
"""

import contextlib
import functools

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import nets
from tests import calls as calls_module

DEVICES = 4
AXIS = "data"
# Modes that split the batch and name the mapped axis.
MAPPED = ("vmap", "pmap", "shard_map")
# Modes in which the arrays are sharded and the function does not know of it.
SHARDED = ("auto", "explicit")
MODES = MAPPED + SHARDED


def mesh(axis_type=AxisType.Auto):
  """Four devices on one axis."""
  return jax.make_mesh(
    (DEVICES,), (AXIS,), (axis_type,), devices=jax.devices()[:DEVICES]
  )


def arguments(call, dtype=np.float32):
  """The arrays and masks of a call, floats in this precision."""
  arrays = jax.tree.map(
    lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x,
    dict(call.arrays),
  )
  return arrays, dict(call.masks)


def axes(call):
  """The axes of examples of `arguments`."""
  return tuple({k: call.axes[k] for k in x} for x in (call.arrays, call.masks))


def weights(call, dtype=np.float32):
  """A number for each channel of each array of floats: they bend it."""

  def of(array, axis):
    if not np.issubdtype(array.dtype, np.floating):
      return None
    last = array.ndim > 0 and axis != array.ndim - 1
    shape = [1] * array.ndim
    return np.zeros([*shape[:-1], array.shape[-1]] if last else shape, dtype)

  arrays = dict(call.arrays)
  return jax.tree.map(of, arrays, axes(call)[0])


def split_axes(call):
  """For each array of the result, the axis that is split; -1: replicated."""
  arrays, masks = arguments(call)
  leaves = jax.tree.leaves
  whole = jax.eval_shape(lambda a, m: leaves(call(a, **m)), arrays, masks)
  if not call.on_devices:
    return jax.tree.map(lambda x: -1, whole)
  parts = jax.eval_shape(
    jax.vmap(
      lambda a, m: leaves(call(a, axis_name=AXIS, **m)),
      in_axes=in_axes(call),
      axis_name=AXIS,
      axis_size=DEVICES,
    ),
    *divided(call, arrays, masks),
  )

  def differs(part, of_all):
    axis = [
      i
      for i, (a, b) in enumerate(zip(part.shape[1:], of_all.shape, strict=True))
      if a != b
    ]
    return axis[0] if axis else -1

  return jax.tree.map(differs, parts, whole)


def in_axes(call):
  """`in_axes` of `jax.vmap` and `jax.pmap`."""
  return tuple(
    jax.tree.map(lambda axis: None if axis < 0 else axis, x) for x in axes(call)
  )


def divided(call, arrays, masks):
  """Arguments with an axis of devices in front of the axis of examples."""

  def of(array, axis):
    if axis < 0:
      return array
    shape = array.shape
    parts = (DEVICES, shape[axis] // DEVICES)
    return array.reshape(*shape[:axis], *parts, *shape[axis + 1 :])

  return jax.tree.map(of, (arrays, masks), axes(call))


def specs(call):
  """The partitions of `arguments`."""
  return jax.tree.map(
    lambda axis: P(*[None] * axis, AXIS) if axis >= 0 else P(), axes(call)
  )


def one_number(result, split, axis_name):
  """A number that depends on each element of a result."""
  total = 0.0
  for x, axis in zip(jax.tree.leaves(result), split, strict=True):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      continue
    x = x.astype(jnp.promote_types(x.dtype, jnp.result_type(float)))
    shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
    waves = 1 + 0.5 * np.cos(np.arange(np.prod(shape, dtype=int)) + 1.0)
    part = jnp.sum(x * jnp.asarray(waves.reshape(shape), x.dtype))
    if axis >= 0 and axis_name is not None:
      part = jax.lax.psum(part, axis_name)
    total += part
  return total


def bend(arrays, weights):
  """The arrays, moved so that scales and shifts are not all that changes."""
  return jax.tree.map(
    lambda x, w: x if w is None else x + w * jnp.sin(2 * x),
    arrays,
    weights,
    is_leaf=lambda x: x is None,
  )


def step(call, split, arrays, masks, weights, axis_name=None):
  """The number of a call and its gradient by the weights."""
  options = {"axis_name": axis_name} if axis_name else {}

  def value(weights):
    return one_number(
      call(bend(arrays, weights), **masks, **options), split, axis_name
    )

  number, gradient = jax.value_and_grad(value)(weights)
  if axis_name:
    gradient = jax.lax.pmean(gradient, axis_name)
  return number, gradient


def results(names, mode=None, dtype=np.float32, *, run=jax.jit):
  """The number and gradient of each call, all in one program.

  Args:
    names: of the calls.
    mode: one of `MODES`; None for one device.
    dtype: of the arrays.
    run: what runs the program; `traced` only looks at it.

  Returns:
    By name, a number and gradients.
  """
  table = {name: calls_module.calls()[name] for name in names}
  splits = {name: split_axes(call) for name, call in table.items()}
  given = {name: arguments(call, dtype) for name, call in table.items()}
  slopes = {name: weights(call, dtype) for name, call in table.items()}
  of_axes = {name: in_axes(call) for name, call in table.items()}
  partitions = {name: specs(call) for name, call in table.items()}

  def program(given, slopes, axis_name=None):
    return {
      name: step(call, splits[name], *given[name], slopes[name], axis_name)
      for name, call in table.items()
    }

  if mode is None:
    return jax.device_get(jax.jit(program)(given, slopes))
  if mode in SHARDED:
    kind = AxisType.Auto if mode == "auto" else AxisType.Explicit
    with jax.set_mesh(mesh(kind)) as devices:
      placed = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh(kind), spec)),
        given,
        partitions,
      )
      del devices
      return jax.device_get(run(program)(placed, slopes))
  on_axis = functools.partial(program, axis_name=AXIS)
  if mode == "shard_map":
    mapped = jax.shard_map(
      on_axis, mesh=mesh(), in_specs=(partitions, P()), out_specs=P()
    )
    return jax.device_get(jax.jit(mapped)(given, slopes))
  parts = {name: divided(table[name], *given[name]) for name in table}
  if mode == "vmap":
    mapped = jax.jit(jax.vmap(on_axis, (of_axes, None), axis_name=AXIS))
  else:
    mapped = jax.pmap(
      on_axis,
      AXIS,
      in_axes=(of_axes, None),
      devices=jax.devices()[:DEVICES],
    )
  return jax.tree.map(lambda x: x[0], jax.device_get(mapped(parts, slopes)))


def traced(program):
  """Shows errors of shardings, without compiling."""
  return lambda *arguments: jax.jit(program).trace(*arguments).out_info


def errors(got, want):
  """The relative errors of a number and of its gradients."""
  value = abs(float(got[0]) - float(want[0])) / max(abs(float(want[0])), 1e-6)
  pairs = list(
    zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True)
  )
  norms = [float(np.linalg.norm(b)) for _, b in pairs]
  if not np.all(np.isfinite([*norms, float(want[0])])):
    return np.nan, np.nan  # a call that shows nothing
  floor = max(1e-3 * max(norms, default=0.0), 1e-6)
  gradient = max(
    (
      float(np.linalg.norm(a - b)) / max(norm, floor)
      for (a, b), norm in zip(pairs, norms, strict=True)
    ),
    default=0.0,
  )
  return value, gradient


PLATFORMS = ("cpu", "cuda", "tpu")
# What JAX cannot lower for a batch of unknown size: decompositions of matrices
# with a side of unknown length, and the sizes that a function chooses by it.
STATIC_BATCH = {
  "adaptation.bnm_loss": "a singular value decomposition of the batch",
  "adaptation.bsp_loss": "a singular value decomposition of the batch",
  "adaptation.rsd_loss": "a singular value decomposition of the batch",
  "selection.bnm_score": "a singular value decomposition of the batch",
  "selection.h_score": "a singular value decomposition of the batch",
  "selection.logme": "a singular value decomposition of the batch",
  "finetuning.bss_loss": "a singular value decomposition of the batch",
  "metrics.frechet_distance": "a QR decomposition of the rows",
  "transforms.joint_distribution_adaptation:rbf": "eigenvectors of a kernel",
  "transforms.tca:rbf": "eigenvectors of a kernel",
}


def exported(name, dtype=np.float32):
  """A call and its gradient, exported and serialized for all platforms.

  Args:
    name: of the call.
    dtype: of the arrays.

  Returns:
    The bytes of a function of weights, arrays and masks.
  """
  call = calls_module.calls()[name]
  (size,) = jax.export.symbolic_shape("n")

  def spec(array, axis):
    shape = list(np.shape(array))
    if axis >= 0 and name not in STATIC_BATCH:
      shape[axis] = size
    kind = jnp.asarray(array).dtype
    return jax.ShapeDtypeStruct(tuple(shape), kind)

  def program(weights, arrays, masks):
    def value(weights):
      result = call(bend(arrays, weights), **masks)
      numbers = [
        jnp.sum(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        for x in jax.tree.leaves(result)
      ]
      return sum(numbers), result

    return jax.value_and_grad(value, has_aux=True)(weights)

  arrays, masks = jax.tree.map(spec, arguments(call, dtype), axes(call))
  slopes = jax.tree.map(lambda x: spec(x, -1), weights(call, dtype))
  return serialized(program, slopes, arrays, masks)


def serialized(program, *arguments):
  """The bytes of a program for all platforms."""
  export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
  with sizes_may_be_symbolic():
    return export(*arguments).serialize()


@contextlib.contextmanager
def sizes_may_be_symbolic():
  """Annotations of sizes say `int`; a symbolic size is none for beartype."""
  before = jaxtyping.config.jaxtyping_disable
  jaxtyping.config.update("jaxtyping_disable", True)
  try:
    yield
  finally:
    jaxtyping.config.update("jaxtyping_disable", before)


def exported_network(name, input_shape=(32, 32, 3)):
  """A network in training mode and its gradient, exported and serialized."""
  network = nnx.eval_shape(
    lambda: nets.create(
      name, input_shape=input_shape, num_classes=10, rngs=nnx.Rngs(0)
    )
  )
  graph, params, rest = nnx.split(network, nnx.Param, ...)
  states, structure = jax.tree.flatten((params, rest))
  size = len(jax.tree.leaves(params))

  def program(params, rest, images):
    def value(params):
      module = nnx.merge(graph, *structure.unflatten([*params, *rest]))
      outputs = module(images)
      return jnp.sum(outputs.logits), outputs

    return jax.value_and_grad(value, has_aux=True)(params)

  (batch,) = jax.export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((batch, *input_shape), jnp.float32)
  return serialized(program, states[:size], states[size:], images)


def table(names, size=8):
  """Yields the lines of a table: function by mode, value and gradient."""
  yield f"| function | {' | '.join(MODES)} | export |"
  yield f"|---|{'---|' * (len(MODES) + 1)}"
  worst = dict.fromkeys(MODES, (0.0, 0.0))
  for start in range(0, len(names), size):
    part = names[start : start + size]
    expected = results(part)
    found = {}
    for mode in MODES:
      asked = [
        name
        for name in part
        if mode in SHARDED or calls_module.calls()[name].on_devices
      ]
      found[mode] = results(asked, mode) if asked else {}
    for name in part:
      cells = []
      for mode in MODES:
        if name not in found[mode]:
          cells.append("")
          continue
        pair = errors(found[mode][name], expected[name])
        worst[mode] = tuple(map(max, worst[mode], pair))
        cells.append(" / ".join(f"{x:.0e}" for x in pair))
      kind = "static batch" if name in STATIC_BATCH else "yes"
      exported(name)
      yield f"| `{name}` | {' | '.join(cells)} | {kind} |"
  cells = [" / ".join(f"{x:.0e}" for x in worst[mode]) for mode in MODES]
  yield f"| **worst** | {' | '.join(cells)} | |"


def main():
  """Prints the table of docs/reliability.md."""
  jax.config.update("jax_num_cpu_devices", DEVICES)
  jax.config.update("jax_disable_most_optimizations", True)
  for line in table(list(calls_module.calls())):
    print(line, flush=True)


if __name__ == "__main__":
  main()
