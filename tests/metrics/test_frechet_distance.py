"""The Frechet distance: roots of matrices in float64, and known cases."""

import jax
import numpy as np
import pytest

from kdjax.metrics import frechet_distance

RNG = np.random.default_rng(0)
A = RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 4))
B = RNG.normal(size=(30, 4)) + 0.5


def root(matrix):
  values, vectors = np.linalg.eigh(matrix)
  return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def test_equals_the_formula_with_roots():
  ca, cb = np.cov(A.T), np.cov(B.T)
  half = root(ca)
  expected = np.square(A.mean(0) - B.mean(0)).sum()
  expected += np.trace(ca + cb - 2 * root(half @ cb @ half))
  with jax.enable_x64(True):
    np.testing.assert_allclose(frechet_distance(A, B), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(B, A), expected, rtol=1e-9)
  single = jax.jit(frechet_distance)(A.astype(np.float32), B.astype(np.float32))
  np.testing.assert_allclose(single, expected, rtol=1e-4)


def test_same_rows_shifted_rows_and_too_few():
  rows = A.astype(np.float32)
  assert frechet_distance(rows, rows) < 1e-4
  np.testing.assert_allclose(frechet_distance(rows, rows + 2), 16.0, rtol=1e-4)
  with pytest.raises(ValueError, match="features_b has 1 rows; expected two"):
    frechet_distance(rows, rows[:1])
