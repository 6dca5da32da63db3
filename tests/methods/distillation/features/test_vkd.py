"""VkD's projection is orthogonal."""

import jax
import numpy as np
import pytest
from flax import nnx

from kdjax.methods.distillation.features._vkd import Orthogonal, _vkd
from tests.methods.distillation.networks import TEACHER, VIT, gradients


@pytest.mark.parametrize("sizes", [(3, 7), (7, 3), (4, 4)])
def test_the_projection_is_orthogonal(sizes):
  matrix = jax.jit(lambda: Orthogonal(*sizes, nnx.Rngs(0)).matrix())()
  matrix = np.asarray(matrix)
  assert matrix.shape == sizes
  gram = matrix @ matrix.T if sizes[0] <= sizes[1] else matrix.T @ matrix
  np.testing.assert_allclose(gram, np.eye(min(sizes)), atol=1e-6)


def test_vkd_takes_tokens_and_maps():
  by_params, by_features = gradients(_vkd(), VIT, TEACHER)
  assert np.any(by_params["kernel"] != 0)
  assert np.any(by_features["f2"] != 0)
