"""The pages of methods name every method with its weights."""

import importlib
import pathlib
import re

import pytest

from kdjax import distillation
from kdjax.methods import PRESETS

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "methods.md").read_text()
TRANSFER = (DOCS / "transfer.md").read_text()
NUMBER = re.compile(r"[\d.]+(?:e-?\d+)?(?: ?/ ?[\d.]+)?")


def tables(page):
  """The lines of a page's tables, as cells."""
  for line in page.splitlines():
    if line.startswith("| "):
      yield [cell.strip() for cell in line.strip("|").split("|")]


ROWS = {
  cells[0].strip("`"): cells
  for cells in tables(PAGE)
  if cells[0].startswith("`")
}


def test_every_loss_is_named():
  named = set(re.findall(r"`(\w+)`", PAGE))
  assert set(distillation.__all__) <= named


SHOWN = sorted(
  name
  for name, row in PRESETS.items()
  if row.area == "distillation" and name != "scratch"
)


@pytest.mark.parametrize("name", SHOWN)
def test_every_preset_is_shown_with_its_weights(name):
  row = PRESETS[name]
  _, title, _, labels, kd, weight, temperature, words = ROWS[name]
  assert title == row.title
  assert float(labels) == row.cross_entropy
  assert float(kd or 0) == row.kd
  if row.method:
    assert float(weight.split(",")[0]) == row.weight
  assert ("warm-up" in weight) == bool(row.warmup_epochs)
  assert ("stage" in weight) == (row.method is None and not row.kd)
  if row.kd:
    assert float(temperature) == row.temperature
  if "teacher" not in row.networks:
    assert "no teacher" in words
  for view in row.views:
    assert f"`{view}`" in words or "views" in words


def test_every_row_is_a_preset_or_says_what_else_it_is():
  for name, cells in ROWS.items():
    if len(cells) == 8 and name not in PRESETS:
      assert "optimizer" in cells[2], name


def presets_of(cells):
  """The presets that the first cell of a line lists."""
  names = re.findall(r"`(\w+)`", cells[0])
  return names if ", ".join(f"`{x}`" for x in names) == cells[0] else []


def value(text):
  """The value of a number or of a fraction."""
  above, _, below = text.replace(" ", "").rstrip(".").partition("/")
  return float(above) / float(below or 1)


TRANSFER_ROWS = [
  (name, cells) for cells in tables(TRANSFER) for name in presets_of(cells)
]
# Areas with a page of their own, and the losses that it names.
OWN_PAGES = (
  "continual",
  "collaboration",
  "federated",
  "cross_modal",
  "language",
)
TRANSFERRED = {
  k
  for k, row in PRESETS.items()
  if row.area not in ("distillation", *OWN_PAGES)
}


def test_transfer_page_has_every_preset_once():
  shown = [name for name, _ in TRANSFER_ROWS if name in TRANSFERRED]
  assert len(shown) == len(set(shown))
  assert set(shown) <= TRANSFERRED
  baselines = {k for k in TRANSFERRED - set(shown) if not PRESETS[k].tuned}
  parts = re.findall(r"`(\w+)`", TRANSFER)
  assert baselines <= set(parts)
  # The methods that the table of objectives shows.
  assert TRANSFERRED - set(shown) - baselines == {"jda"}


OWN_ROWS = {
  area: [
    (name, cells)
    for cells in tables((DOCS / f"{area}.md").read_text())
    for name in presets_of(cells)
  ]
  for area in OWN_PAGES
}


@pytest.mark.parametrize("area", OWN_PAGES)
def test_an_areas_own_page_has_every_preset_once_and_every_name(area):
  shown = [name for name, _ in OWN_ROWS[area]]
  assert sorted(shown) == sorted(
    k for k, row in PRESETS.items() if row.area == area
  )
  text = (DOCS / f"{area}.md").read_text()
  named = set(re.findall(r"`(?:\w+\.)?(\w+)[`(]", text))
  room = importlib.import_module(f"kdjax.{area}")
  assert set(room.__all__) <= named


TRANSFER_ROWS += [row for rows in OWN_ROWS.values() for row in rows]


@pytest.mark.parametrize(
  ("name", "cells"), TRANSFER_ROWS, ids=[name for name, _ in TRANSFER_ROWS]
)
def test_transfer_page_shows_the_weight_of_a_preset(name, cells):
  """The hyper-parameter that is tuned first has its default in the row."""
  row = PRESETS[name]
  assert len(cells) == 5
  if row.search is not None:
    expected = row.search.default
  elif row.tuned == "weight":
    expected = row.weight
  else:
    return
  numbers = [value(x) for x in NUMBER.findall(cells[3])]
  assert any(x == pytest.approx(expected) for x in numbers), cells[3]
