"""No public function answers a wrong argument with an error of others."""

import pytest

from tests import bad_input
from tests import documented

# The changes that are refused before anything is computed. `python -m
# tests.bad_input` makes all of them.
CHANGES = ("string", "None", "object", "scalar", "number", "one axis more")


@pytest.mark.slow
@pytest.mark.parametrize("area", documented.AREAS)
def test_wrong_arguments_are_named(area):
  obscure = [
    str(answer)
    for name, call in documented.recorded().items()
    if name.startswith(f"{area}.")
    for answer in bad_input.answers(call, CHANGES)
    if answer.verdict == bad_input.OBSCURE
  ]
  assert not obscure, "\n".join(obscure)
