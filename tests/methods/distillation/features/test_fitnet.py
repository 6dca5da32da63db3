"""FitNets: the regressor."""

import functools

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.features._fitnet import _fitnet
from tests.methods.distillation.networks import pair, staged, start_and_apply


@pytest.mark.parametrize(
  ("old", "new", "kernel"),
  [
    (4, 2, (3, 3, 4, 5)),
    (2, 4, (4, 4, 4, 5)),
    (1, 4, (8, 8, 4, 5)),
    (4, 3, (2, 2, 4, 5)),
    (1, 1, (1, 1, 4, 5)),
  ],
)
def test_the_hint_regressor_fits_the_shapes(old, new, kernel):
  student = staged(0, sizes=(8, 8, old), widths=(3, 3, 4))
  teacher = staged(1, sizes=(8, 8, new), widths=(3, 3, 5))
  regress = functools.partial(start_and_apply, _fitnet())
  params, *_ = jax.eval_shape(regress, pair(student, teacher))
  assert params["convolution"]["kernel"].shape == kernel
  if old not in (2, 4) or new not in (2, 4):
    return  # other sizes of the same layers
  _, state, loss = regress(pair(student, teacher))
  assert np.isfinite(loss)
  moved = state["module"]["norm"]["mean"]
  assert np.any(moved != 0)
