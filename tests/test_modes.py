"""One batch gives one value and one gradient in every mode of JAX.

The table of docs/reliability.md shows the errors in float32. Here all is in
float64, where rounding cannot hide a factor.
"""

import inspect

import jax
import numpy as np
import pytest

from tests import calls
from tests import modes

# Of functions with `axis_name`; the rest of the slow tier asks of all.
TELLING = [
  "distillation.itrd_loss",
  "generalization.mmd",
  "selection.transrate",
  "transforms.tca",
  "transforms.joint_distribution_adaptation",
  "finetuning.key_queue_update",
]
MAPPED = sorted(name for name, call in calls.calls().items() if call.on_devices)


def parts(names, size=8):
  """Lists of names: one program each."""
  return [names[i : i + size] for i in range(0, len(names), size)]


def agree(names, mode, tolerance=1e-8):
  with jax.enable_x64(True):
    expected = modes.results(names, None, np.float64)
    results = modes.results(names, mode, np.float64)
  worst = {
    name: max(modes.errors(results[name], expected[name])) for name in names
  }
  # NaN is no agreement either.
  wrong = {
    name: error for name, error in worst.items() if not error <= tolerance
  }
  assert not wrong


def test_every_public_function_is_called():
  """By its signature: a new function needs no entry, or one in `NO_ARRAYS`."""
  for name, function in calls.public_functions():
    if "axis_name" in inspect.signature(function).parameters:
      assert name in MAPPED
  names = {name for name, _ in calls.public_functions()}
  assert names >= calls.NO_ARRAYS
  assert names >= calls.GIVEN.keys()


def test_a_few_agree_on_four_devices():
  """The results are declared replicated, so `jax.shard_map` checks that too."""
  agree(TELLING, "shard_map")


@pytest.mark.slow
@pytest.mark.parametrize("mode", modes.MAPPED)
@pytest.mark.parametrize("names", parts(MAPPED), ids=lambda names: names[0])
def test_all_agree_on_four_devices(names, mode):
  agree(names, mode)
