"""Compares adaptation methods on four shifts of two-dimensional data.

Each method trains the same kind of classifier, skada-bench's SVC, for source
and target domains that differ in one way: by their points (covariate), their
shares of the classes (target), the places of the classes (concept), or all but
one direction (subspace). A seed draws new data, the same for every method, so
that a gain over source-only is a paired difference. Hyper-parameters are
chosen for each data set by a rule that sees no target label; the choice of
an oracle with labels of target validation points is reported beside it.

  python -m experiments.shifts
  python -m experiments.shifts --shifts target --methods tars bbse --seeds 20
  python -m experiments.shifts --resume --select importance_weighted
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from experiments.frame import cells, commands, jobs, rules
from experiments.shifts import choice
from experiments.shifts.data import SHIFTS
from experiments.shifts.methods import BOUNDS, METHODS
from experiments.shifts.report import Results, write


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares methods on four shifts of two-dimensional data."""

  workdir: str = "runs/shifts"
  # the shifts, some of the four
  shifts: tuple[Literal["covariate", "target", "concept", "subspace"], ...] = (
    SHIFTS
  )
  # the methods that are compared with source_only and target_only; help: print
  # them
  methods: Annotated[
    tuple[str, ...] | None, commands.optional("all", "NAME ...")
  ] = None
  select: rules.Flag = "guarded"
  seeds: commands.Count = 10  # the number of data sets of each shift
  # each domain has 8 times so many training points, 12 times under the subspace
  # shift, and a quarter as many validation points
  size: int = 80
  test_size: commands.Count = 250  # the same for target test points


def methods_of(config: Config) -> list[str]:
  """The methods between their bounds, in the order of the table."""
  chosen = [m for m in METHODS if m in (config.methods or METHODS)]
  return [BOUNDS[0], *chosen, BOUNDS[1]]


def train(job: jobs.Setup) -> None:
  """Examines all candidates of the missing cells, on the data of all seeds."""
  config, files = job.config, cells.Cells(job.run.path)
  names = itertools.product(config.shifts, methods_of(config))
  for (shift, method), update in files.missing(job.console, names):
    candidates = choice.candidates_of(method)
    seen = [
      [choice.examine(job.data(shift, seed), method, x) for x in candidates]
      for seed in range(config.seeds)
    ]
    files.write({"candidates": candidates, "seen": seen}, shift, method)
    update(1, f"{method} on {shift}")


def read(job: jobs.Setup) -> Results:
  """The accuracies that every rule chose in all cells of the flags."""

  def chosen(shift: str, method: str) -> dict[str, np.ndarray]:
    seen = cells.Cells(job.run.path).read(shift, method)["seen"]
    rows = [choice.choose([choice.Seen(*x) for x in row]) for row in seen]
    return {rule: np.array([row[rule] for row in rows]) for rule in rows[0]}

  return {
    shift: {method: chosen(shift, method) for method in methods_of(job.config)}
    for shift in job.config.shifts
  }


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags; the data are drawn when they are first asked for."""
  commands.check(config)
  commands.expect(config, "size", config.size >= 20, "20 or more")
  met = 0 < len(set(config.shifts)) == len(config.shifts)
  commands.expect(config, "shifts", met, "one or more different shifts")
  if config.methods is not None:
    commands.expect_some(config, "methods", METHODS)
  problem_of = functools.cache(functools.partial(choice.make_problem, config))
  return jobs.open_run(config, problem_of, free=("methods", "select", "shifts"))


def execute(job: jobs.Setup) -> Results:
  """Computes the missing cells and writes the report."""
  train(job)
  results = read(job)
  write(job, results)
  return results


if __name__ == "__main__":
  kinds = {name: (row.kind, row.name) for name, row in METHODS.items()}
  commands.launch(Config, prepare, execute, lambda: kinds)
