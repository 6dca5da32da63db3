"""Measures one implementation: its time, its memory, its error."""

import dataclasses
import importlib
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# What a process holds counts, not what JAX takes beforehand.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import kdjax

Tree = Any
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SAMPLE = 256  # rows of a large result that are compared


class Program(NamedTuple):
  """A function with arguments of its own, such as parameters, before others."""

  function: Callable[..., Tree]
  own: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Case:
  """One question: these inputs, these implementations, this right answer.

  Attributes:
    group: what is computed.
    shape: of the inputs, in words for a reader.
    size: what a plot has on its x axis; cases of a group differ in it.
    unit: of the size.
    inputs: draws the arrays that every implementation gets.
    jax: name -> a function of the inputs, or a `Program`; kdjax's first.
    torch: name -> the same for PyTorch tensors, if it is installed.
    moved_bytes: what any implementation must at least read and write, as
      float32; the floor of its time is this over the device's bandwidth.
    operations: what it must at least compute; the floor is the higher one.
    reference: the inputs' right answer, written in JAX and run in float64.
    steps: how many a call takes; times are those of one.
  """

  group: str
  shape: str
  size: int
  unit: str
  inputs: Callable[[], tuple[jax.Array, ...]]
  jax: Mapping[str, Callable[..., Tree] | Program]
  torch: Mapping[str, Callable[..., Tree]]
  moved_bytes: int
  operations: float = 0
  reference: Callable[..., Tree] | None = None
  steps: int = 1

  @property
  def name(self) -> str:
    return f"{self.group} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Device:
  """Bytes and operations a second, measured by a copy and a product."""

  bandwidth: float
  rate: float

  def floor_ms(self, case: Case, dtype: jnp.dtype) -> float:
    """Returns the least that a step can take."""
    moved = case.moved_bytes * dtype.itemsize / 4 / self.bandwidth
    return 1e3 * max(moved, case.operations / self.rate)


@dataclasses.dataclass(frozen=True)
class Row:
  """One measurement of one step.

  Memory is what it takes beyond the inputs, results included: by XLA's account
  of its program; of PyTorch by its allocator on a GPU, and on a CPU by the
  growth of the process in the first call.
  """

  case: str
  group: str
  size: int
  unit: str
  implementation: str
  compile_ms: float | None
  median_ms: float
  p10_ms: float
  p90_ms: float
  floor_ms: float
  memory_mib: float | None
  error: float | None


def measure(
  case: Case,
  implementation: str,
  device: Device,
  *,
  dtype: jnp.dtype,
  calls: int,
  clock: Callable[[], float],
  exact: pathlib.Path | None,
) -> Row:
  """Measures one implementation of a case.

  Args:
    case: with the implementation.
    implementation: its name.
    device: what it can do.
    dtype: of the floating-point inputs.
    calls: that are timed.
    clock: in seconds.
    exact: what `save_reference` wrote, or None.
  """
  arrays = as_dtype(case.inputs(), dtype)
  if implementation in case.jax:
    seen = _run_jax(case.jax[implementation], arrays, calls, clock)
  else:
    seen = _run_torch(case.torch[implementation], arrays, calls, clock)
  compile_ms, (median, p10, p90), memory, result = seen
  error = None
  if exact is not None:
    with np.load(exact) as leaves:
      error = relative_error(result, [leaves[name] for name in leaves.files])
  return Row(
    case.name,
    case.group,
    case.size,
    case.unit,
    implementation,
    compile_ms,
    median / case.steps,
    p10 / case.steps,
    p90 / case.steps,
    device.floor_ms(case, dtype),
    memory,
    error,
  )


def save_reference(
  case: Case, dtype: jnp.dtype, path: pathlib.Path
) -> pathlib.Path | None:
  """Writes what float64 makes of the same rounded inputs, if there is a way.

  Returns:
    The path, or None for a case without a reference.
  """
  if case.reference is None:
    return None
  arrays = as_dtype(case.inputs(), dtype)
  with jax.enable_x64(True):
    exact = jax.jit(case.reference)(*as_dtype(arrays, jnp.dtype("float64")))
  np.savez(path, *(_sample(x) for x in jax.tree.leaves(exact)))
  return path


def as_dtype(arrays: Tree, dtype: jnp.dtype) -> Tree:
  """Casts what is floating-point."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    arrays,
  )


def time_calls(
  call: Callable[[], Any], calls: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
  """Returns the median and the 10th and 90th percentile in milliseconds."""
  for _ in range(min(3, calls)):
    call()
  times = []
  for _ in range(calls):
    start = clock()
    call()
    times.append(1e3 * (clock() - start))
  p10, p90 = np.percentile(times, (10, 90))
  return statistics.median(times), float(p10), float(p90)


def measure_device(
  clock: Callable[[], float], dtype: jnp.dtype, *, tiny: bool = False
) -> Device:
  """Measures a large copy, and a large product of matrices."""
  x = jnp.zeros(2**20 if tiny else 2**26, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  copied, _, _ = time_calls(lambda: jax.block_until_ready(copy(x)), 10, clock)
  on_cpu = jax.default_backend() == "cpu"
  size = 128 if tiny else 1024 if on_cpu else 8192
  y = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  multiplied, _, _ = time_calls(
    lambda: jax.block_until_ready(product(y, y)), 10, clock
  )
  return Device(2e3 * x.nbytes / copied, 2e3 * size**3 / multiplied)


def relative_error(actual: Tree, exact: list[np.ndarray]) -> float:
  """Returns the largest error of a leaf, relative to its largest entry."""
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(actual)]
  return max(
    float(np.max(np.abs(a - e)) / max(np.max(np.abs(e)), 1e-300))
    for a, e in zip(leaves, exact, strict=True)
  )


def describe_environment() -> dict[str, Any]:
  """Returns what a number depends on: the device and the versions."""
  device = jax.devices()[0]
  torch = import_torch()
  return {
    "device": device.device_kind,
    "platform": device.platform,
    "machine": platform.machine(),
    "python": platform.python_version(),
    "kdjax": kdjax.__version__,
    "jax": jax.__version__,
    "torch": torch.__version__ if torch else None,
  }


def import_torch() -> Any:
  """Returns PyTorch, or None where it is not installed."""
  try:
    return importlib.import_module("torch")
  except ModuleNotFoundError:
    return None


def torch_device(torch: Any) -> str:
  """Returns PyTorch's name of the device that JAX uses."""
  on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  return "cuda" if on_gpu else "cpu"


def _run_jax(
  function: Any,
  arrays: tuple[jax.Array, ...],
  calls: int,
  clock: Callable[[], float],
) -> tuple[float, tuple[float, float, float], float | None, Tree]:
  """Returns compilation, times, memory and the result."""
  if isinstance(function, Program):
    arrays = (*function.own, *arrays)
    function = function.function
  start = time.perf_counter()
  compiled = jax.jit(function).lower(*arrays).compile()
  compile_ms = 1e3 * (time.perf_counter() - start)
  times = time_calls(
    lambda: jax.block_until_ready(compiled(*arrays)), calls, clock
  )
  sizes = compiled.memory_analysis()
  memory = None
  if sizes is not None:
    memory = (sizes.temp_size_in_bytes + sizes.output_size_in_bytes) / 2**20
  result = compiled(*arrays)
  return compile_ms, times, memory, jax.tree.map(_sample, result)


def _run_torch(
  function: Callable[..., Tree],
  arrays: tuple[jax.Array, ...],
  calls: int,
  clock: Callable[[], float],
) -> tuple[float, tuple[float, float, float], float | None, Tree]:
  """Returns the first call's time, times, memory and the result."""
  torch = import_torch()
  where = torch_device(torch)
  if where == "cpu":
    # As many as XLA's, which is told so by a flag.
    single = "multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "")
    torch.set_num_threads(1 if single else len(os.sched_getaffinity(0)))

  def as_tensor(x: jax.Array) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return torch.from_numpy(np.array(x)).to(where).long()
    dtype = getattr(torch, x.dtype.name)
    host = torch.from_numpy(np.array(x.astype(jnp.float32)))
    return host.to(where).to(dtype)

  tensors = [as_tensor(x) for x in arrays]

  def call() -> Tree:
    result = function(*tensors)
    if where == "cuda":
      torch.cuda.synchronize()
    return result

  start = time.perf_counter()
  memory = _growth(call)
  first_ms = 1e3 * (time.perf_counter() - start)
  if where == "cuda":
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20
  times = time_calls(call, calls, clock)
  result = jax.tree.map(lambda x: _sample(x.detach().float().cpu()), call())
  return first_ms, times, memory, result


def _sample(x: Any) -> np.ndarray:
  """Returns the first rows: all of a 4 GB gradient would take minutes."""
  return np.asarray(x[:SAMPLE] if x.ndim else x)


def _growth(call: Callable[[], Any]) -> float | None:
  """Returns by how many MiB the process grows in a call; Linux tells it."""
  try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 2**10
  except OSError:
    call()
    return None


def _status(name: str) -> int:
  """Returns an entry of the process's status, in KiB."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(x.split()[1]) for x in lines if x.startswith(name))
