"""The pages of methods: their tables are those of the rows."""

import importlib
import re

import pytest

from docs import tables
from kdjax import methods

TEXTS = {page: (tables.FOLDER / page).read_text() for page in tables.PAGES}


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_the_tables_are_up_to_date(page):
  """If not: `python -m docs.tables` rewrites them."""
  assert tables.rewrite(TEXTS[page], tables.PAGES[page]) == TEXTS[page]


def test_every_area_has_a_page():
  areas = {methods.describe(name).area for name in methods.names()}
  assert {x for page in tables.PAGES.values() for x in page} == areas


@pytest.mark.parametrize(
  "area",
  [
    "distillation",
    "continual",
    "collaboration",
    "federated",
    "cross_modal",
    "language",
  ],
)
def test_an_areas_page_names_every_function(area):
  page = "methods.md" if area == "distillation" else f"{area}.md"
  named = set(re.findall(r"`(?:\w+\.)?(\w+)[`(]", TEXTS[page]))
  room = importlib.import_module(f"kdjax.{area}")
  assert set(room.__all__) <= named


def test_a_new_method_gets_a_line_and_a_deleted_one_loses_it():
  lines = TEXTS["continual.md"].splitlines()
  (start, end), *_ = tables.tables(lines)
  gone = lines.pop(start + 1)
  lines.insert(start, tables.line(["`deleted`", *"abcde"]))
  text = tables.rewrite("\n".join(lines), ("continual",))
  assert "`deleted`" not in text
  name = tables.cells_of(gone)[0].strip("`")
  added = text.splitlines()[end - 1]
  assert added == tables.method_line(name, ("", ""))


def test_what_a_person_wrote_stays():
  lines = TEXTS["continual.md"].splitlines()
  (start, _), *_ = tables.tables(lines)
  name = tables.cells_of(lines[start])[0].strip("`")
  lines[start] = tables.line([f"`{name}`", "", "", "", "papers", "notes"])
  text = tables.rewrite("\n".join(lines), ("continual",))
  assert text.splitlines()[start].endswith("| papers | notes |")


def test_new_names_of_renames_exist():
  page = (tables.FOLDER / "renames.md").read_text()
  made = re.findall(r'-> .*?methods\.create\("(\S+?)"\)', page)
  assert made
  assert set(made) <= set(methods.names())
  for room, name in re.findall(r"-> (training|methods)\.(\w+)", page):
    module = importlib.import_module(f"kdjax.{room}")
    assert name in module.__all__, name
