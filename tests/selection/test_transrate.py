"""TransRate."""

import functools

import jax
import numpy as np
import pytest

from kdjax.selection import transrate


def problem(n=16, dims=5, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(n) ** 2 % classes)
  labels[:classes] = np.arange(classes)
  centers = rng.normal(size=(classes, dims))
  return rng.normal(size=(n, dims)) + centers[labels], labels


FEATURES, LABELS = problem()
ROWS = np.float32(FEATURES)
SHAPES = [(40, 6, 3), (12, 20, 4), (90, 3, 2)]


def rate(features, eps):
  n, dims = features.shape
  gram = features.T @ features / (n * eps)
  return 0.5 * np.linalg.slogdet(np.eye(dims) + gram)[1]


@jax.jit
def transrates(features, labels, eps):
  """By the weights of the classes; some of the five classes are absent."""
  return {
    weighting: transrate(
      features, labels, epsilon=eps, weighting=weighting, num_classes=5
    )
    for weighting in ("uniform", "frequency")
  }


@pytest.mark.parametrize(
  "shape",
  [SHAPES[0], *(pytest.param(x, marks=pytest.mark.slow) for x in SHAPES[1:])],
)
def test_transrate_equals_numpy(shape):
  features, labels = problem(*shape, seed=4)
  eps, classes = 0.003, shape[2]
  x = features - features.mean(0)
  shares = np.bincount(labels) / len(labels)
  with jax.enable_x64(True):
    values = transrates(features, labels, eps)
  singles = transrates(np.float32(features), labels, eps)
  for weighting, weights in {
    "uniform": np.full(classes, 1 / classes),
    "frequency": shares,
  }.items():
    expected = rate(x, eps) - sum(
      w * rate(x[labels == c], eps) for c, w in enumerate(weights)
    )
    np.testing.assert_allclose(values[weighting], expected, rtol=1e-10)
    np.testing.assert_allclose(
      singles[weighting], expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
def test_transrate_needs_no_number_of_classes():
  """Of traced labels, of known ones, and of ones with gaps."""
  expected = jax.jit(functools.partial(transrate, num_classes=3))(ROWS, LABELS)
  np.testing.assert_allclose(
    jax.jit(transrate)(ROWS, LABELS), expected, rtol=1e-4
  )
  known = jax.jit(lambda x: (transrate(x, LABELS), transrate(x, 3 * LABELS)))
  np.testing.assert_allclose(known(ROWS), expected, rtol=1e-4)
