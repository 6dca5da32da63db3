"""The schedule of the reversed gradient against the codes' numbers."""

import jax
import numpy as np
import pytest

from kdjax.training import reversal_schedule


@pytest.mark.parametrize(
  ("options", "step", "expected"),
  [
    ({"steps": 10000}, 0, 0.0),
    ({"steps": 10000}, 2500, 2 / (1 + np.exp(-2.5)) - 1),
    ({"steps": 1000, "sharpness": 1.0}, 1000, 2 / (1 + np.exp(-1)) - 1),
    ({"steps": 1000, "sharpness": 1.0}, 9000, 2 / (1 + np.exp(-9)) - 1),
    ({"steps": 50, "low": 0.02, "high": 0.1}, 10**6, 0.1),
    ({"steps": 50, "low": 0.02, "high": 0.1}, 0, 0.02),
  ],
)
def test_equals_the_formula(options, step, expected):
  schedule = reversal_schedule(**options)
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


def test_everything_may_be_traced():
  traces = []

  @jax.jit
  def scale(step, steps, sharpness):
    traces.append(None)
    return reversal_schedule(steps, sharpness=sharpness)(step)

  for values in ((3, 10, 1.0), (5, 20, 10.0)):
    step, steps, sharpness = values
    np.testing.assert_allclose(
      scale(*values), np.tanh(sharpness * step / steps / 2), rtol=1e-5
    )
  assert len(traces) == 1


def test_error_names_the_argument():
  with pytest.raises(ValueError, match="steps is 0; expected"):
    reversal_schedule(0)
