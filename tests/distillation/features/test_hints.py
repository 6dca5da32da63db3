"""Hints (FitNets): the student's feature map regresses on the teacher's."""

import jax
import numpy as np

from kdjax.distillation import hint_loss

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32)


def test_hint_takes_features_of_any_rank():
  student, teacher = STUDENT[:, 0, 0], TEACHER[:, 0, 0]
  np.testing.assert_allclose(
    jax.jit(hint_loss)(student, teacher),
    np.square(np.float64(student) - teacher).mean(1),
    rtol=1e-5,
  )
