"""ViTKD: which tokens, from which widths."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.tokens._vitkd import _vitkd
from tests.methods.distillation.networks import (
  BOTH,
  KEY,
  VIT,
  WIDE_VIT,
  gradients,
  network,
  pair,
  run,
)


@pytest.mark.slow
def test_vitkd_mimics_low_layers_and_generates_the_last():
  """The class token, and a second one of the teacher, are left out."""
  by_params, by_features = gradients(_vitkd(), VIT, WIDE_VIT)
  assert all(np.any(x != 0) for x in jax.tree.leaves(by_params))
  for gradient in by_features.values():
    np.testing.assert_array_equal(gradient[:, 0], 0)
    assert np.any(gradient[:, 1:] != 0)
  whole = run(_vitkd(beta=0.0), WIDE_VIT, WIDE_VIT)
  np.testing.assert_array_equal(whole, 0)
  with pytest.raises(ValueError, match="expected tokens"):
    _vitkd().init(KEY, BOTH)
  with pytest.raises(ValueError, match="student has 9 patches and teacher 4"):
    _vitkd().init(KEY, pair(VIT, network(40, (4, 6), (4, 6))))


def test_vitkd_projects_each_layer_from_its_own_width():
  student = network(70, (10, 3), (10, 4), (10, 6))
  params, _ = jax.eval_shape(
    lambda: _vitkd().init(KEY, pair(student, WIDE_VIT))
  )
  assert params["projectors"][0]["kernel"].shape == (3, 6)
  assert params["projectors"][2]["kernel"].shape == (6, 6)
  assert np.isfinite(run(_vitkd(), student, WIDE_VIT))
