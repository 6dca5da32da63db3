"""The sandwich rule: a float64 oracle."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import sandwich_loss

RNG = np.random.default_rng(0)
STUDENTS = RNG.normal(size=(3, 4, 5))
TEACHER = RNG.normal(size=(4, 5))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_sum_of_divergences_from_the_largest():
  p, q = softmax(TEACHER / 2), softmax(STUDENTS / 2)
  expected = 4 * (p * (np.log(p) - np.log(q))).sum(-1).sum(0)
  loss = jax.jit(sandwich_loss)(
    STUDENTS.astype(np.float32), TEACHER.astype(np.float32), temperature=2.0
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  with pytest.raises(ValueError, match="temperature is 0"):
    sandwich_loss(
      STUDENTS.astype(np.float32), TEACHER.astype(np.float32), temperature=0.0
    )
