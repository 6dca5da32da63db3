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


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"scratch"}))
def test_every_preset_is_shown_with_its_weights(name):
  row = PRESETS[name]
  _, _, _, labels, kd, weight, temperature, _ = ROWS[name]
  assert float(labels) == row.cross_entropy
  assert float(kd or 0) == row.kd
  if row.method:
    assert float(weight.split(",")[0]) == row.weight
  assert ("warm-up" in weight) == bool(row.warmup_epochs)
  if row.kd:
    assert float(temperature) == row.temperature
