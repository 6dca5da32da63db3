"""The frame of every benchmark: all cases, side by side, in one run.

A benchmark is a module with cases; the frame measures each implementation in a
process of its own, so that none of them meets what another left, and sets it
against the floor and against the best peer of the same run.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks import _report
from benchmarks._measure import (
  CLOCKS,
  Case,
  Device,
  Row,
  describe_environment,
  import_torch,
  measure,
  measure_device,
  save_reference,
)


def run(
  make_cases: Callable[[argparse.Namespace], list[Case]],
  description: str,
  argv: list[str] | None = None,
) -> list[Row]:
  """Runs the cases that the flags choose; prints, saves and draws every row.

  Args:
    make_cases: the benchmark's; of the flags.
    description: what `--help` says.
    argv: the command line, by default the process's.

  Returns:
    The rows.
  """
  flags = parse(description, argv)
  if flags.child:
    run_child(make_cases, flags)
    return []
  console = Console()
  if not console.is_terminal:
    console = Console(width=120)  # a pipe has no width to fit into
  environment = describe_environment()
  clock, dtype = CLOCKS[flags.clock], jnp.dtype(flags.dtype)
  device = measure_device(clock, dtype, tiny=flags.size == "tiny")
  console.print(
    environment
    | {
      "copy_gb_per_s": round(device.bandwidth / 1e9, 1),
      "product_gflop_per_s": round(device.rate / 1e9, 1),
    }
  )
  rows: list[Row] = []
  for case in make_cases(flags):
    if flags.only not in case.name:
      continue
    measured = measure_case(make_cases, case, flags, device, console)
    console.print(_report.console_table(case.name, measured))
    rows += measured
    save(measured, flags, environment)
  console.print(f"{len(rows)} rows added to {flags.out}")
  if flags.markdown:
    flags.markdown.write_text(_report.markdown(rows) + "\n")
  if flags.plot:
    _report.plot(rows, flags.plot)
  return rows


def parse(
  description: str, argv: list[str] | None = None
) -> argparse.Namespace:
  """Reads the command line."""
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
    help="cpu: a process's CPU time, on a machine that others use too",
  )
  parser.add_argument("--only", default="", help="a part of the cases' names")
  parser.add_argument(
    "--peers",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="whether others' implementations are measured too",
  )
  parser.add_argument(
    "--isolate",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="a process for each implementation",
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("runs/benchmarks.jsonl"),
    help="the file to which rows are added as JSON",
  )
  parser.add_argument(
    "--markdown", type=pathlib.Path, help="the file for a Markdown table"
  )
  parser.add_argument("--plot", type=pathlib.Path, help="the file for a plot")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  flags = parser.parse_args(argv)
  flags.argv = sys.argv[1:] if argv is None else argv
  return flags


def names(case: Case, *, peers: bool) -> list[str]:
  """Returns the implementations that can be measured here."""
  found = [*case.jax, *(case.torch if import_torch() else ())]
  return [name for name in found if peers or _report.is_own(name)]


def measure_case(
  make_cases: Callable[[argparse.Namespace], list[Case]],
  case: Case,
  flags: argparse.Namespace,
  device: Device,
  console: Console,
) -> list[Row]:
  """Measures every implementation of a case; one that fails is named."""
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    task = {"case": case.name, "folder": folder, **dataclasses.asdict(device)}
    call: Callable[[dict[str, Any]], Row | None] = (
      functools.partial(in_child, module_of(make_cases), flags)
      if flags.isolate
      else functools.partial(in_process, case, flags)
    )
    call(task | {"implementation": None})
    for name in names(case, peers=flags.peers):
      try:
        row = call(task | {"implementation": name})
      except RuntimeError as error:
        console.print(f"{case.name}: {name} failed: {error}", style="red")
        continue
      assert row is not None
      rows.append(row)
  return rows


def module_of(make_cases: Callable[..., Any]) -> str:
  """Returns what `python -m` calls a benchmark."""
  spec = sys.modules[make_cases.__module__].__spec__
  assert spec is not None
  return spec.name


def in_child(
  module: str, flags: argparse.Namespace, task: dict[str, Any]
) -> Row | None:
  """Does a task in a process of its own.

  Raises:
    RuntimeError: with the last line that the process said, if it failed.
  """
  command = [sys.executable, "-m", module, *flags.argv]
  environment = os.environ.copy()
  if (task["implementation"] or "").startswith("torch"):
    # JAX draws the inputs; then the memory is PyTorch's.
    environment["XLA_PYTHON_CLIENT_ALLOCATOR"] = "platform"
  done = subprocess.run(
    [*command, "--child", json.dumps(task)],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
    raise RuntimeError(said[-1])
  answer = json.loads(done.stdout.splitlines()[-1])
  return answer and Row(**answer)


def run_child(
  make_cases: Callable[[argparse.Namespace], list[Case]],
  flags: argparse.Namespace,
) -> None:
  """Does a task and prints its row."""
  task = json.loads(flags.child)
  case = next(x for x in make_cases(flags) if x.name == task["case"])
  row = in_process(case, flags, task)
  print(json.dumps(row and dataclasses.asdict(row)))


def in_process(
  case: Case, flags: argparse.Namespace, task: dict[str, Any]
) -> Row | None:
  """Saves the right answer of a case, or measures an implementation."""
  path = pathlib.Path(task["folder"]) / "exact.npz"
  dtype = jnp.dtype(flags.dtype)
  if task["implementation"] is None:
    save_reference(case, dtype, path)
    return None
  return measure(
    case,
    task["implementation"],
    Device(task["bandwidth"], task["rate"]),
    dtype=dtype,
    calls=flags.calls,
    clock=CLOCKS[flags.clock],
    exact=path if path.exists() else None,
  )


def save(
  rows: list[Row], flags: argparse.Namespace, environment: dict[str, Any]
) -> None:
  """Adds rows to the file, with what their numbers depend on."""
  flags.out.parent.mkdir(parents=True, exist_ok=True)
  settings = {"dtype": flags.dtype, "clock": flags.clock}
  with flags.out.open("a") as file:
    for row in rows:
      record = dataclasses.asdict(row) | environment | settings
      file.write(json.dumps(record) + "\n")
