"""Activation boundaries (AB)."""

import jax
import numpy as np

from kdjax.distillation import ab_loss

RNG = np.random.default_rng(0)
STUDENT = 2 * RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)
TEACHER = 2 * RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)


def test_activation_boundaries_equal_the_paper():
  """The hinge of the paper's section 3.2, written neuron by neuron."""
  student, teacher = np.float64(STUDENT), np.float64(TEACHER)
  fires = (teacher > 0).astype(float)
  wrong = fires * np.maximum(0.7 - student, 0)
  wrong += (1 - fires) * np.maximum(0.7 + student, 0)
  np.testing.assert_allclose(
    jax.jit(ab_loss)(STUDENT, TEACHER, margin=0.7),
    3e-3 * np.square(wrong).sum((1, 2, 3)),
    rtol=1e-5,
  )
