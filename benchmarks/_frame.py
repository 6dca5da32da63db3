"""The frame of every benchmark: measure, compare, print, save.

A benchmark is a list of cases. A case has inputs, a float64 reference and
implementations by name, kdjax's first; the frame compiles and times each one
in the same process, so that every ratio is of one run on one machine.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import kdjax

Tree = Any
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True)
class Case:
  """One question: these inputs, these implementations, this right answer.

  Attributes:
    name: what is computed, and on what shape.
    inputs: NumPy arrays, the arguments of every implementation.
    reference: a function of the inputs in NumPy float64 that returns a tree.
    jax: name -> a function of JAX arrays that returns the same tree.
    torch: name -> the same for PyTorch tensors, if it is installed.
    moved_bytes: what any implementation must at least read and write; the
      floor of its time is this over the device's bandwidth.
  """

  name: str
  inputs: tuple[np.ndarray, ...]
  reference: Callable[..., Tree]
  jax: Mapping[str, Callable[..., Tree]]
  torch: Mapping[str, Callable[..., Tree]]
  moved_bytes: int
  operations: int = 0


@dataclasses.dataclass(frozen=True)
class Row:
  """One measurement; times in milliseconds, memory in MiB."""

  case: str
  implementation: str
  compile_ms: float | None
  median_ms: float
  p10_ms: float
  p90_ms: float
  floor_ms: float
  temporary_mib: float | None
  error: float


def run(
  make_cases: Callable[[argparse.Namespace], list[Case]],
  description: str,
  argv: list[str] | None = None,
) -> list[Row]:
  """Runs the cases that the flags choose, prints and saves every row."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument(
    "--size",
    choices=("tiny", "cpu", "gpu"),
    default="cpu" if jax.default_backend() == "cpu" else "gpu",
    help="shapes of the inputs; by default those for this device",
  )
  parser.add_argument(
    "--dtype", choices=("float32", "bfloat16"), default="float32"
  )
  parser.add_argument(
    "--calls", type=int, default=30, help="timed calls of each implementation"
  )
  parser.add_argument(
    "--clock",
    choices=CLOCKS,
    default="wall",
    help="cpu: this process's CPU time, on a machine that others use too",
  )
  parser.add_argument("--only", default="", help="a part of the cases' names")
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("runs/benchmarks.jsonl"),
    help="the file to which rows are added as JSON",
  )
  flags = parser.parse_args(argv)
  environment = describe_environment()
  tiny = flags.size == "tiny"
  clock = CLOCKS[flags.clock]
  bandwidth = measure_bandwidth(clock, tiny=tiny)
  rate = measure_products(clock, jnp.dtype(flags.dtype), tiny=tiny)
  console = Console()
  if not console.is_terminal:
    console = Console(width=120)  # a pipe has no width to fit into
  console.print(
    environment
    | {
      "copy_gb_per_s": round(bandwidth / 1e9, 1),
      "product_gflop_per_s": round(rate / 1e9, 1),
    }
  )
  rows = []
  for case in make_cases(flags):
    if flags.only not in case.name:
      continue
    measured = measure_case(case, flags, bandwidth, rate)
    console.print(make_table(case, measured))
    rows += measured
  flags.out.parent.mkdir(parents=True, exist_ok=True)
  with flags.out.open("a") as file:
    for row in rows:
      record = (
        dataclasses.asdict(row)
        | environment
        | {"dtype": flags.dtype, "clock": flags.clock}
      )
      file.write(json.dumps(record) + "\n")
  console.print(f"{len(rows)} rows added to {flags.out}")
  return rows


def measure_case(
  case: Case, flags: argparse.Namespace, bandwidth: float, rate: float
) -> list[Row]:
  """Measures every implementation of one case."""
  dtype = jnp.dtype(flags.dtype)
  # All see the same rounded inputs, so the error is the computation's alone.
  arrays = [
    jnp.asarray(x, dtype) if x.dtype.kind == "f" else jnp.asarray(x)
    for x in case.inputs
  ]
  exact = case.reference(
    *(
      np.asarray(x.astype(jnp.float32), np.float64)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else np.asarray(x)
      for x in arrays
    )
  )
  itemsize_ratio = dtype.itemsize / 4
  floor_ms = 1e3 * max(
    case.moved_bytes * itemsize_ratio / bandwidth, case.operations / rate
  )
  rows = []
  for name, function in case.jax.items():
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arrays).compile()
    compile_ms = 1e3 * (time.perf_counter() - start)
    result = compiled(*arrays)
    analysis = compiled.memory_analysis()
    rows.append(
      Row(
        case.name,
        name,
        compile_ms,
        *time_calls(
          lambda c=compiled: jax.block_until_ready(c(*arrays)),
          flags.calls,
          CLOCKS[flags.clock],
        ),
        floor_ms,
        analysis.temp_size_in_bytes / 2**20 if analysis else None,
        relative_error(jax.tree.map(np.asarray, result), exact),
      )
    )
  torch = import_torch()
  for name, function in case.torch.items() if torch else ():
    rows.append(
      measure_torch(torch, case, name, function, arrays, exact, flags, floor_ms)
    )
  return rows


def measure_torch(
  torch: Any,
  case: Case,
  name: str,
  function: Callable[..., Tree],
  arrays: list[jax.Array],
  exact: Tree,
  flags: argparse.Namespace,
  floor_ms: float,
) -> Row:
  """Measures a PyTorch peer on the device that JAX uses."""
  cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
  tensors = []
  for x in arrays:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    host = np.array(x.astype(jnp.float32) if floating else x)
    tensor = torch.from_numpy(host).to("cuda" if cuda else "cpu")
    if floating:
      tensor = tensor.to(getattr(torch, flags.dtype))
    else:
      tensor = tensor.long()
    tensors.append(tensor)

  def call() -> Tree:
    result = function(*tensors)
    if cuda:
      torch.cuda.synchronize()
    return result

  start = time.perf_counter()
  call()
  compile_ms = 1e3 * (time.perf_counter() - start)
  temporary = None
  if cuda:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    temporary = (torch.cuda.max_memory_allocated() - before) / 2**20
  result = jax.tree.map(lambda x: x.detach().float().cpu().numpy(), call())
  return Row(
    case.name,
    name,
    compile_ms if "compile" in name else None,
    *time_calls(call, flags.calls, CLOCKS[flags.clock]),
    floor_ms,
    temporary,
    relative_error(result, exact),
  )


def time_calls(
  call: Callable[[], Any], calls: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
  """Returns the median and the 10th and 90th percentile in milliseconds."""
  for _ in range(3):
    call()
  times = []
  for _ in range(calls):
    start = clock()
    call()
    times.append(1e3 * (clock() - start))
  p10, p90 = np.percentile(times, (10, 90))
  return statistics.median(times), float(p10), float(p90)


def measure_bandwidth(
  clock: Callable[[], float], *, tiny: bool = False
) -> float:
  """Returns bytes read and written a second by a plain copy."""
  size = 2**20 if tiny else 2**26
  x = jnp.zeros(size, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  median, _, _ = time_calls(lambda: jax.block_until_ready(copy(x)), 10, clock)
  return 2 * x.nbytes / (median / 1e3)


def measure_products(
  clock: Callable[[], float], dtype: jnp.dtype, *, tiny: bool = False
) -> float:
  """Returns operations a second of a large product of matrices."""
  on_cpu = jax.default_backend() == "cpu"
  size = 128 if tiny else 1024 if on_cpu else 8192
  x = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  median, _, _ = time_calls(
    lambda: jax.block_until_ready(product(x, x)), 10, clock
  )
  return 2 * size**3 / (median / 1e3)


def relative_error(actual: Tree, exact: Tree) -> float:
  """Returns the largest error of a leaf, relative to its largest entry."""
  errors = jax.tree.map(
    lambda a, e: float(
      np.max(np.abs(np.asarray(a, np.float64) - e))
      / max(np.max(np.abs(e)), np.finfo(np.float64).tiny)
    ),
    actual,
    exact,
  )
  return max(jax.tree.leaves(errors))


def make_table(case: Case, rows: list[Row]) -> Table:
  """Lays out the rows of one case."""
  table = Table(title=case.name)
  for heading in (
    "implementation",
    "compile ms",
    "median ms",
    "p10..p90",
    "x kdjax",
    "x floor",
    "temporary MiB",
    "error",
  ):
    table.add_column(heading, justify="left" if not table.columns else "right")
  for row in rows:
    table.add_row(
      row.implementation,
      "-" if row.compile_ms is None else f"{row.compile_ms:.0f}",
      f"{row.median_ms:.3f}",
      f"{row.p10_ms:.3f}..{row.p90_ms:.3f}",
      f"{row.median_ms / rows[0].median_ms:.2f}",
      f"{row.median_ms / row.floor_ms:.1f}",
      "-" if row.temporary_mib is None else f"{row.temporary_mib:.1f}",
      f"{row.error:.1e}",
    )
  return table


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
