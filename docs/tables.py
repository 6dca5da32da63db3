"""Rewrites the tables of methods in the pages: `python -m docs.tables`.

A table of methods is one with the header `COLUMNS`. Its first four cells are
made from the row of the method, `methods.describe(name)`; the last two, the
papers and losses and the notes, are written by hand and stay. A method that no
table has gets a line at the end of a table with methods of its group.
"""

import pathlib
import re
from collections.abc import Iterable, Sequence

from kdjax import methods

FOLDER = pathlib.Path(__file__).parent
PAGES = {
  "methods.md": ("distillation",),
  "transfer.md": ("adaptation", "generalization", "finetuning"),
  "continual.md": ("continual",),
  "collaboration.md": ("collaboration",),
  "federated.md": ("federated",),
  "cross_modal.md": ("cross_modal",),
  "language.md": ("language",),
}
COLUMNS = (
  "name",
  "method",
  "published values",
  "needs",
  "papers and losses",
  "notes",
)
_WRITTEN = 2  # The last columns, which a person writes.
_NETWORKS = {
  "teacher": "a teacher",
  "average": "an average of the student",
  "past": "the past network",
  "peers": "peers",
  "stales": "stale peers",
  "teachers": "several teachers",
}
_MANY = re.compile(r"(peer|stale|teacher)_\d+$")


def values(row: methods.Row) -> str:
  """The published values of a method, and their source."""
  parts = []
  if row.cross_entropy:
    parts.append(f"CE {row.cross_entropy:g}")
  if row.kd:
    parts.append(f"KD {row.kd:g} at T = {row.temperature:g}")
  tuned = row.tuned if row.make is not None else ""
  if tuned == "weight" or (tuned and row.weight != 1):
    parts.append(f"weight {row.weight:g}")
  if tuned not in ("", "weight") and row.search is not None:
    parts.append(f"`{tuned}` {row.search.default:g}")
  if row.warmup_epochs:
    parts.append(f"{row.warmup_epochs} epochs of warm-up")
  source = f" ({row.source})" if row.source else ""
  return ", ".join(parts) + source if parts else ""


def needs(row: methods.Row) -> str:
  """The networks, views, domains and stages that a method reads."""
  kinds = [
    _MANY.sub(r"\1s", x) for x in row.networks if not x.startswith("student_")
  ]
  parts = [_NETWORKS.get(x, f"the network `{x}`") for x in dict.fromkeys(kinds)]
  if row.views:
    views = ", ".join(f"`{x}`" for x in row.views)
    parts.append(f"the view{'s' if len(row.views) > 1 else ''} {views}")
  if row.domains:
    parts.append(" and ".join(row.domains))
  if row.start == "source":
    parts.append("a stage on the source")
  if row.start == "past":
    parts.append("pretrained weights")
  if row.initialization is not None:
    epochs = row.initialization_epochs
    parts.append(f"a stage of {epochs} epochs" if epochs else "a stage before")
  return ", ".join(parts)


def line(cells: Sequence[str]) -> str:
  """A line of a table in Markdown."""
  return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def method_line(name: str, written: Sequence[str]) -> str:
  """The line of a method, with the cells that a person wrote."""
  row = methods.describe(name)
  made = (f"`{name}`", f"**{row.title}**: {row.summary}", values(row))
  return line((*made, needs(row), *written))


def cells_of(text: str) -> list[str]:
  """The cells of a line."""
  return [cell.strip() for cell in text.strip().strip("|").split("|")]


def tables(lines: Sequence[str]) -> list[tuple[int, int]]:
  """The first and the last line of each table of methods, without header."""
  found = []
  for start in (i for i, x in enumerate(lines) if x == line(COLUMNS)):
    end = start + 2
    while end < len(lines) and lines[end].startswith("|"):
      end += 1
    found.append((start + 2, end))
  return found


def rewrite(text: str, areas: Sequence[str]) -> str:
  """A page with its tables as the rows have them."""
  lines = text.splitlines()
  spans = tables(lines)
  inside = [
    {cells_of(x)[0].strip("`"): cells_of(x) for x in lines[start:end]}
    for start, end in spans
  ]
  known = [name for area in areas for name in methods.names(area)]
  shown = {name for table in inside for name in table}
  for name in known:
    if name not in shown:
      home = max(inside, key=lambda table: _nearness(name, table))
      home[name] = [""] * len(COLUMNS)
  for (start, end), table in reversed(list(zip(spans, inside, strict=True))):
    lines[start:end] = [
      method_line(name, written[-_WRITTEN:])
      for name, written in table.items()
      if name in known
    ]
  return "\n".join(lines) + "\n"


def _nearness(name: str, table: Iterable[str]) -> tuple[int, int]:
  """How many methods of the group and of the area of a method a table has."""
  row = methods.describe(name)
  others = [methods.describe(x) for x in table if x in methods.names()]
  areas = [x for x in others if x.area == row.area]
  return sum(x.group == row.group for x in areas), len(areas)


def main() -> None:
  """Rewrites all pages."""
  for page, areas in PAGES.items():
    path = FOLDER / page
    path.write_text(rewrite(path.read_text(), areas))


if __name__ == "__main__":
  main()
