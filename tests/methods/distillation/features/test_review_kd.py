"""ReviewKD: fusion of stages."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.features._review_kd import _review_kd
from tests.methods.distillation.networks import (
  KEY,
  STAGED,
  STAGED_MASK,
  STAGED_WIDE,
  pair,
)


@pytest.mark.slow
def test_review_fuses_with_what_is_deeper():
  """The shallowest stage's loss alone depends on the embedding too."""
  objective = _review_kd()

  @jax.jit
  def gradients(student):
    params, state = objective.init(KEY, pair(student, STAGED_WIDE))

    def loss(params, student):
      return objective.apply(
        params, state, pair(student, STAGED_WIDE), {"mask": STAGED_MASK}, KEY
      )[0]

    return jax.grad(loss, (0, 1))(params, student)

  by_params, by_student = gradients(STAGED)
  kernel = by_params[2]["expand"]["convolution"]["kernel"]
  assert kernel.shape == (3, 3, 6, 8)
  assert "attention" in by_params[0]
  assert "attention" not in by_params[2]
  for i in range(2):
    assert np.any(by_params[i]["attention"]["kernel"] != 0)
  assert np.any(by_student.embedding != 0)
  np.testing.assert_array_equal(by_student.features["f0"], 0)
