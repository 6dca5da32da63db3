"""Times the JAX forms of the losses in turn, where others use the machine too.

  python -m benchmarks.turns

`benchmarks.losses` and `benchmarks.pairwise` measure one implementation after
the other, and what else runs meanwhile differs between them. Here one process
calls them in turn, and counts the CPU time of one thread. The best peer has the
ratio 1.
"""

import os

os.environ.setdefault("PJRT_NPROC", "1")

import argparse
import statistics
import time
from typing import Any

import jax

from benchmarks import losses, pairwise
from benchmarks._measure import Case

# So many numbers are read in a round: short calls are counted together.
_NUMBERS = 2_000_000


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
  """Returns the CPU milliseconds of a call, by implementation and round."""
  inputs = case.inputs()
  programs: dict[str, Any] = {
    name: jax.jit(function).lower(*inputs).compile()
    for name, function in case.jax.items()
    if callable(function)
  }
  for program in programs.values():
    jax.block_until_ready(program(*inputs))
  calls = max(1, _NUMBERS // inputs[0].size)
  times: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, program in programs.items():
      begin = time.process_time()
      results = [program(*inputs) for _ in range(calls)]
      jax.block_until_ready(results)
      seconds = time.process_time() - begin
      times[name].append(1e3 * seconds / calls)
  return times


def main(argv: list[str] | None = None) -> None:
  """Prints a row for each loss of logits, or for those that --only names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=31)
  parser.add_argument("--size", choices=("tiny", "cpu"), default="cpu")
  parser.add_argument("--only", default="_loss [", help="a part of the names")
  flags = parser.parse_args(argv)
  for case in [*losses.make_cases(flags), *pairwise.make_cases(flags)]:
    if flags.only not in case.name:
      continue
    times = measure(case, flags.rounds)
    middle = {name: statistics.median(x) for name, x in times.items()}
    best = min(x for name, x in middle.items() if name != "kdjax")
    cells = [
      f"{name} {x:.3g} ms ({x / best:.2f})" for name, x in middle.items()
    ]
    print(f"{case.name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
  main()
