"""LogME against the evidence, maximised by SciPy, and published values."""

import functools

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from kdjax.selection import logme
from tests import laws


def problem(n=16, dims=5, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(n) % classes)
  features = (
    rng.normal(size=(n, dims)) + rng.normal(size=(classes, dims))[labels]
  )
  return features, labels


FEATURES, LABELS = problem()
PUBLISHED = jax.jit(logme)
# Until alpha / beta stands still.
maximised = functools.partial(logme, num_iterations=1000, tolerance=1e-6)
LOGME = jax.jit(maximised)


def of_features(features, unused, labels, **options):
  del unused
  return maximised(features, labels, num_classes=3, **options)


ROWS = np.float32(FEATURES)
CASES = {
  "logme": laws.Case(
    of_features, (ROWS, ROWS, LABELS), coupled=True, unused=(1,)
  )
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


# Examples, dims and classes -> TLlib's score of `problem`, and of 20 times its
# features.
RECORDED = {
  (30, 4, 3): (-0.6667161287409362, -0.6667161633420998),
  (12, 20, 2): (-0.31004085627356226, -0.3114630747599526),
  (15, 15, 4): (-0.48003569264693713, -0.48265629315390973),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", RECORDED)
def test_the_defaults_equal_the_published_code(shape):
  features, labels = problem(*shape, seed=3)
  for scale, expected in zip((1, 20), RECORDED[shape], strict=True):
    rows = scale * features
    with jax.enable_x64(True):
      value = PUBLISHED(rows, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    single = PUBLISHED(np.float32(rows), labels)
    np.testing.assert_allclose(single, expected, rtol=1e-3)


def oracle(features, targets):
  """The density of y under N(0, I / beta + F F' / alpha), at its best."""
  kernel = features @ features.T

  def loss(logs, y):
    alpha, beta = np.exp(logs)
    covariance = np.eye(len(y)) / beta + kernel / alpha
    return -stats.multivariate_normal.logpdf(y, cov=covariance)

  best = []
  for y in targets.T:
    found = optimize.minimize(
      loss,
      [0.0, 0.0],
      (y,),
      "Nelder-Mead",
      options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 4000},
    )
    best.append(-found.fun / len(y))
  return np.mean(best)


@pytest.mark.slow
@pytest.mark.parametrize("shape", RECORDED)
def test_classes_equal_the_maximised_evidence(shape):
  """More dims than examples, too."""
  features, labels = problem(*shape, seed=3)
  expected = oracle(features, np.eye(shape[2])[labels])
  with jax.enable_x64(True):
    value = LOGME(features, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  single = LOGME(np.float32(features), labels)
  np.testing.assert_allclose(single, expected, rtol=1e-4)


@pytest.mark.slow
def test_regression_equals_the_maximised_evidence():
  features, _ = problem(25, 4)
  noise = np.random.default_rng(1).normal(size=(25, 2))
  targets = features @ np.ones((4, 2)) + noise
  with jax.enable_x64(True):
    value = LOGME(features, targets)
    np.testing.assert_allclose(value, oracle(features, targets), rtol=1e-6)
    np.testing.assert_allclose(
      LOGME(features, targets[:, 0]),
      oracle(features, targets[:, :1]),
      rtol=1e-6,
    )
  laws.slopes_agree(maximised, (features, targets), tolerance=1e-3)


@pytest.mark.slow
def test_invariances():
  features, labels = ROWS, LABELS
  rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
  value = LOGME(features, labels)
  rotation = np.float32(rotation)
  for same in (features @ rotation, 30 * features, features[:, ::-1]):
    np.testing.assert_allclose(LOGME(same, labels), value, rtol=1e-4)
  np.testing.assert_allclose(LOGME(features, 2 - labels), value, rtol=1e-5)
  # Equal columns are one direction, of twice the variance.
  np.testing.assert_allclose(
    LOGME(np.tile(features, 2), labels), value, rtol=1e-4
  )


@pytest.mark.slow
def test_absent_classes_do_not_take_part():
  """Known labels, and with them the number of classes."""
  value = jax.jit(lambda x: logme(x, 2 * LABELS))(ROWS)
  np.testing.assert_allclose(value, PUBLISHED(ROWS, LABELS), rtol=1e-5)


@pytest.mark.slow
def test_degenerate_features():
  n = LABELS.size
  run = jax.jit(jax.value_and_grad(logme))
  one_hot = np.eye(3, dtype=np.float32)[LABELS]
  for features in (
    np.zeros((n, 5), np.float32),
    np.ones((n, 5), np.float32),
    1e4 * ROWS,
    np.pad(one_hot, ((0, 0), (0, 2))),  # a perfect fit
    np.eye(n, dtype=np.float32),
  ):
    value, gradient = run(features, LABELS)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
  # Nothing is known: each indicator has its own variance about 0.
  shares = np.bincount(LABELS) / n
  expected = np.mean(-0.5 * (np.log(2 * np.pi * shares) + 1))
  nothing, _ = run(np.zeros((n, 5), np.float32), LABELS)
  np.testing.assert_allclose(nothing, expected, rtol=1e-5)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"labels has shape \(3,\) and dtyp"):
    logme(ROWS, LABELS[:3])
  with pytest.raises(TypeError, match="features has dtype int32"):
    logme(np.ones((3, 2), np.int32), LABELS[:3])
  with pytest.raises(ValueError, match="num_iterations is 0"):
    logme(ROWS, LABELS, num_iterations=0)
  with pytest.raises(ValueError, match="tolerance is -1"):
    logme(ROWS, LABELS, tolerance=-1.0)
