"""docs/methods.md names every method, with the weights of its preset."""

import pathlib
import re

import pytest

from kdjax import distillation
from kdjax.objectives import PRESETS

PAGE = (pathlib.Path(__file__).parent.parent / "docs/methods.md").read_text()
ROWS = {
  cells[0].strip("`"): cells
  for line in PAGE.splitlines()
  if line.startswith("| `")
  for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
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
