"""SemCKD: similarities of any batch in any order."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.features._semckd import _semckd, _similarities
from tests.methods.distillation.networks import (
  BATCH,
  ROWS,
  STUDENT,
  gradients,
  network,
)


def test_semckd_takes_any_batch_in_any_order():
  maps, mask = STUDENT.features["f1"], BATCH["mask"]
  describe = jax.jit(_similarities, static_argnums=(1, 3))
  quantiles = describe(maps, 8, mask, None)
  order = np.random.default_rng(0).permutation(ROWS)
  np.testing.assert_allclose(
    describe(maps[order], 8, mask[order], None),
    quantiles[order],
    rtol=1e-4,
    atol=1e-4,
  )
  rows = np.float64(maps).reshape(ROWS, -1)[:13]
  np.testing.assert_allclose(
    quantiles[:13],
    np.quantile(rows @ rows.T, np.linspace(0, 1, 8), axis=1).T,
    rtol=1e-4,
    atol=1e-4,
  )
  np.testing.assert_allclose(
    describe(maps[:13], 8, mask[:13], None),
    quantiles[:13],
    rtol=1e-4,
    atol=1e-4,
  )
  # Of nothing that counts there are finite ones, whose gradient is 0.
  nothing = describe(maps, 8, np.zeros(ROWS, bool), None)
  np.testing.assert_array_equal(nothing, 0)


@pytest.mark.slow
def test_semckd_trains_all_its_parts():
  teacher = network(50, (4, 4, 3), (2, 2, 6), (2, 2, 4))
  by_params, by_features = gradients(_semckd(samples=8), STUDENT, teacher)
  assert all(np.any(x != 0) for x in jax.tree.leaves(by_params))
  np.testing.assert_array_equal(by_features["f0"], 0)
  assert np.any(by_features["f1"] != 0)
