"""Methods from their names reach the weights of published training loops."""

import pytest

from tests.methods import whole_steps


@pytest.mark.parametrize(
  "case", whole_steps.cases("adapt", "dassl", "tllib", "usb")
)
def test_a_method_reaches_the_published_weights(case):
  off, tolerance = whole_steps.gap(case)
  assert off < tolerance
