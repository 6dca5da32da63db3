"""Tables that look the same in the report and on the console."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table as ConsoleTable

from kdjax import methods


class Table(NamedTuple):
  """A table, its first column to the left and the others to the right."""

  header: Sequence[str]  # the names of the columns
  rows: Sequence[Sequence[str]]  # their cells
  title: str | None = None  # above it on the console
  # The columns on the console; None for all, () for no table.
  shown: Sequence[int] | None = None

  def markdown(self) -> str:
    """Its lines in Markdown."""
    rule = ["---", *["---:"] * (len(self.header) - 1)]
    lines = (self.header, rule, *self.rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

  def console(self, *, left: bool = False) -> ConsoleTable:
    """The same for the console; `left` aligns all columns to the left."""
    table = ConsoleTable(
      box=box.SIMPLE_HEAD, title=self.title, title_justify="left"
    )
    columns = range(len(self.header)) if self.shown is None else self.shown
    for i in columns:
      side = "right" if i and not left else "left"
      table.add_column(self.header[i], justify=side, overflow="fold")
    for row in self.rows:
      table.add_row(*(row[i].replace("**", "") for i in columns))
    return table


def of_rows(
  names: Iterable[Any],
  columns: Mapping[str, Callable[[Any], str]],
  **options: Any,
) -> Table:
  """A table of a row for each name; a column has a cell for a name."""
  rows = [[cell(name) for cell in columns.values()] for name in names]
  return Table(list(columns), rows, **options)


def describe(names: Iterable[str]) -> dict[str, tuple[str, str]]:
  """The area and the summary of methods, for `--methods help`."""
  rows = {name: methods.describe(name) for name in names}
  return {name: (row.area, row.summary) for name, row in rows.items()}
