"""ITRD against NumPy in float64; recorded cases are in test_recorded."""

import jax
import numpy as np
import pytest

from kdjax.distillation import (
  itrd_correlation_loss,
  itrd_loss,
  itrd_mutual_loss,
)
from tests import laws

RNG = np.random.default_rng(0)
TEACHER = RNG.normal(size=(16, 6)).astype(np.float32)
STUDENT = (0.5 * TEACHER + RNG.normal(size=(16, 6))).astype(np.float32)

CASE = laws.Case(
  itrd_loss,
  (STUDENT, TEACHER),
  {"correlation_weight": 2.0, "mutual_weight": 0.7, "alpha": 1.5},
  coupled=True,
)


@pytest.mark.parametrize(("name", "law"), laws.pairs({"itrd": CASE}))
def test_law(name, law):
  law(CASE)


def oracle(student, teacher):
  def standardized(x):
    return (x - x.mean(0)) / x.std(0, ddof=1)

  def normalized(gram):
    return gram / np.trace(gram)

  def gram(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T

  correlation = (standardized(student) * standardized(teacher)).mean(0)
  own = normalized(gram(student))
  joint = normalized(gram(student) * gram(teacher))
  mutual = (own**2).sum() - (joint**2).sum()
  return 2 * np.log2(((correlation - 1) ** 3 * -1).sum()) + 0.7 * mutual


def test_equals_numpy():
  kept = [np.float64(x)[CASE.mask] for x in (STUDENT, TEACHER)]
  np.testing.assert_allclose(CASE.run()[0], oracle(*kept), rtol=1e-5)


def test_perfect_correlation_is_the_minimum():
  value = jax.jit(itrd_correlation_loss)(3 * TEACHER + 1, TEACHER, alpha=1.5)
  np.testing.assert_allclose(value, np.log2(6) - 3 * np.log2(16), rtol=1e-3)


def test_dead_features_are_uncorrelated():
  student = STUDENT.copy()
  student[:, 2] = 0
  value, gradients = CASE.run((student, TEACHER))
  assert np.isfinite(value)
  np.testing.assert_array_equal(gradients[0][~CASE.mask], 0)
  assert np.max(abs(gradients[0])) < 100


def test_mutual_term_takes_unequal_widths():
  assert np.isfinite(jax.jit(itrd_mutual_loss)(STUDENT[:, :3], TEACHER))
  with pytest.raises(ValueError, match="teacher_embeddings has shape"):
    laws.trace(itrd_correlation_loss, STUDENT[:, :3], TEACHER)
  with pytest.raises(ValueError, match="alpha is 0"):
    laws.trace(itrd_correlation_loss, STUDENT, TEACHER, alpha=0.0)
