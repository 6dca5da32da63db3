"""Tables and plots of the rows of a run."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from rich.table import Table

from benchmarks._measure import Row

HEADER = (
  "case",
  "implementation",
  "ms (10th to 90th percentile)",
  "x floor",
  "x best peer",
  "MiB",
  "error",
  "compile s",
)


def is_own(implementation: str) -> bool:
  """Whether it is kdjax's, and not a peer's."""
  return implementation.startswith("kdjax")


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
  """Returns the cells of a row; its peers are among the rows of its case."""
  peers = [
    other.median_ms
    for other in rows
    if other.case == row.case and not is_own(other.implementation)
  ]

  def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

  return [
    row.case,
    row.implementation,
    f"{row.median_ms:.3g} ({row.p10_ms:.3g} to {row.p90_ms:.3g})",
    f"{row.median_ms / row.floor_ms:.1f}" if row.floor_ms else "",
    f"{row.median_ms / min(peers):.2f}" if peers else "",
    shown(row.memory_mib, ".1f"),
    shown(row.error, ".0e"),
    shown(row.compile_ms and row.compile_ms / 1e3, ".1f"),
  ]


def console_table(title: str, rows: Sequence[Row]) -> Table:
  """Lays out the rows of one case."""
  floor = f", floor {rows[0].floor_ms:.3g} ms" if rows else ""
  table = Table(title=f"{title}{floor}")
  for name in HEADER[1:]:
    table.add_column(name, justify="right" if table.columns else "left")
  for row in rows:
    table.add_row(*cells(row, rows)[1:])
  return table


def markdown(rows: Sequence[Row]) -> str:
  """Lays out all rows as the table of a page."""
  lines = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2))]
  lines += [tuple(cells(row, rows)) for row in rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws time and memory against size, a column for each group."""
  groups = list(dict.fromkeys(row.group for row in rows))
  figure, axes = plt.subplots(
    2,
    len(groups),
    figsize=(4 * len(groups), 6),
    squeeze=False,
    layout="constrained",
  )
  names = list(dict.fromkeys(row.implementation for row in rows))
  for column, group in enumerate(groups):
    time, memory = axes[:, column]
    of_group = [row for row in rows if row.group == group]
    for i, name in enumerate(names):
      mine = [row for row in of_group if row.implementation == name]
      mine.sort(key=lambda row: row.size)
      if not mine:
        continue
      style = "-" if is_own(name) else "--"
      sizes = [row.size for row in mine]
      time.plot(
        sizes,
        [row.median_ms for row in mine],
        f"o{style}",
        color=f"C{i}",
        label=name,
      )
      held = [row.memory_mib or float("nan") for row in mine]
      memory.plot(sizes, held, f"o{style}", color=f"C{i}")
    floors = {row.size: row.floor_ms for row in of_group}
    time.plot(*zip(*sorted(floors.items()), strict=True), "k:", label="floor")
    time.set(title=group, ylabel="ms")
    memory.set(xlabel=of_group[0].unit, ylabel="MiB beyond the inputs")
    for axis in (time, memory):
      axis.set_xscale("log", base=2)
      axis.set_yscale("log")
    time.legend(fontsize="x-small")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=120)
  plt.close(figure)
