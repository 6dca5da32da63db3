"""AFD: attention over layers."""

import numpy as np

from kdjax.methods.distillation.features._afd import _afd
from tests.methods.distillation.networks import ROWS, STUDENT, TEACHER, run


def test_afd_of_one_layer_is_attention_transfer():
  """With nothing to choose from, the weight is 1."""
  energies = []
  student = np.float64(STUDENT.features["f1"]) ** 2
  pooled = student.mean(3).reshape(ROWS, 2, 2, 2, 2).mean((2, 4))
  for energy in (pooled, (np.float64(TEACHER.features["f1"]) ** 2).mean(3)):
    flat = energy.reshape(ROWS, -1)
    energies.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
  expected = np.square(energies[0] - energies[1]).mean(1)[:13].mean()
  np.testing.assert_allclose(
    run(_afd(width=8), STUDENT, TEACHER), expected, rtol=1e-4
  )
