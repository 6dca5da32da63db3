"""VID starts at a variance and trains it."""

import jax
import numpy as np
import pytest

from kdjax.distillation import vid_loss
from kdjax.methods.distillation.features._vid import _vid
from tests.methods.distillation.networks import (
  BOTH,
  KEY,
  STUDENT,
  TEACHER,
  gradients,
  run,
)


def test_vid_starts_at_the_variance_and_trains_it():
  objective = _vid(init_variance=3.0)
  params, _ = jax.jit(lambda: objective.init(KEY, BOTH))()
  rho = np.asarray(params[0]["rho"])
  np.testing.assert_allclose(np.log1p(np.exp(rho)) + 1e-5, 3.0, rtol=1e-6)
  zeros = jax.tree.map(np.zeros_like, params) | {}
  zeros[0]["rho"] = rho
  teacher = np.asarray(TEACHER.features["f1"])
  variance = np.full(6, 3, np.float32)
  expected = jax.jit(vid_loss)(np.zeros_like(teacher), variance, teacher)
  np.testing.assert_allclose(
    run(objective, STUDENT, TEACHER, zeros), expected[:13].mean(), rtol=1e-5
  )
  by_params, _ = gradients(objective, STUDENT, TEACHER)
  assert np.all(by_params[0]["rho"] != 0)
  with pytest.raises(ValueError, match="init_variance is 0"):
    _vid(init_variance=0.0)
