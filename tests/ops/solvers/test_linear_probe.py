"""The exact probe: its optimum, its threshold, its independence of form."""

import jax
import numpy as np
import pytest

from kdjax.ops import best_threshold, linear_probe_scores, standardize_domains


def error_sum(scores, is_source, threshold, source_above):
  predicted = (scores > threshold) == source_above
  return np.mean(~predicted[is_source]) + np.mean(predicted[~is_source])


def brute_force(scores, is_source):
  cuts = np.unique(scores)
  thresholds = np.concatenate([[-np.inf], (cuts[1:] + cuts[:-1]) / 2, [np.inf]])
  return min(
    error_sum(scores, is_source, threshold, above)
    for threshold in thresholds
    for above in (True, False)
  )


SCORES = jax.jit(linear_probe_scores)
STANDARDIZE = jax.jit(standardize_domains)
SEARCH = jax.jit(jax.vmap(best_threshold))


def test_threshold_is_the_brute_force_optimum():
  rng = np.random.default_rng(0)
  # Few distinct values, so that ties are everywhere.
  scores = rng.integers(0, 7, (40, 24)).astype(np.float32)
  is_source = rng.random((40, 24)) < rng.uniform(0.1, 0.9, (40, 1))
  where = rng.random((40, 24)) < 0.7
  is_source[:, 0], is_source[:, 1], where[:, :2] = True, False, True
  thresholds, above = map(np.asarray, SEARCH(scores, is_source, where))
  for row in range(40):
    keep = where[row]
    found = error_sum(
      scores[row, keep], is_source[row, keep], thresholds[row], above[row]
    )
    expected = brute_force(scores[row, keep], is_source[row, keep])
    assert found == pytest.approx(expected, abs=1e-6)
    assert found <= 1 + 1e-6


def test_threshold_separates_neighbouring_floats():
  low = np.float32(1.0)
  high = np.nextafter(low, np.float32(2.0))
  threshold, above = jax.jit(best_threshold)(
    np.array([high, low]), np.array([True, False]), np.array([True, True])
  )
  assert low <= threshold < high
  assert above


def loss(parameters, features, is_source, training, ridge):
  """The documented objective, in NumPy's float64."""
  slope, intercept = parameters[:-1], parameters[-1]
  losses = np.logaddexp(
    0, -np.where(is_source, 1, -1) * (features @ slope + intercept)
  )
  means = [losses[training & d].mean() for d in (is_source, ~is_source)]
  return np.mean(means) + ridge / 2 * slope @ slope


def unbalanced_problem(rows=90, dims=4, seed=0):
  rng = np.random.default_rng(seed)
  is_source = np.arange(rows) < rows // 4
  features = rng.normal(size=(rows, dims)) @ rng.normal(size=(dims, dims))
  features[is_source, 0] += 1.0
  training = np.arange(rows)[None] % 3 != np.arange(3)[:, None]
  return features, is_source, training


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rows", "dims"), [(90, 4), (24, 60)], ids=["primal", "more dims than rows"]
)
def test_scores_equal_scikit_learn(rows, dims):
  linear_model = pytest.importorskip("sklearn.linear_model")
  features, is_source, training = unbalanced_problem(rows, dims)
  ridges = np.array([1e-3, 1e-1])
  with jax.enable_x64(True):
    scores = jax.jit(jax.vmap(SCORES, (None, None, None, 0)))(
      features, is_source, training, ridges
    )
  for r, ridge in enumerate(ridges):
    for fold, where in enumerate(training):
      peer = linear_model.LogisticRegression(
        C=1 / (ridge * where.sum()),
        class_weight="balanced",
        tol=1e-10,
        max_iter=10_000,
      ).fit(features[where], is_source[where])
      expected = peer.decision_function(features)
      np.testing.assert_allclose(
        scores[r, fold], expected, atol=1e-4 * np.abs(expected).max()
      )


@pytest.mark.slow
def test_probe_minimises_the_documented_objective():
  optimize = pytest.importorskip("scipy.optimize")
  features, is_source, training = unbalanced_problem()
  start = np.zeros(features.shape[1] + 1)
  solved = optimize.minimize(
    loss,
    start,
    (features, is_source, training[0], 1e-2),
    tol=1e-12,
  )
  scores = SCORES(np.float32(features), is_source, training, 1e-2)[0]
  np.testing.assert_allclose(
    scores, features @ solved.x[:-1] + solved.x[-1], atol=3e-3
  )


@pytest.mark.slow
def test_hard_problems_converge():
  """Separable, badly scaled, nearly collinear, with a tiny ridge."""
  rng = np.random.default_rng(1)
  factors = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 40))
  rows = factors + 1e-3 * rng.normal(size=(400, 40))
  rows = rows * np.logspace(-3, 3, 40) + 100.0
  is_source = np.arange(400) < 100
  rows[:100] += 3.0 * rows.std(0)
  features = STANDARDIZE(np.float32(rows), is_source)
  training = np.ones((1, 400), bool)
  scores = np.asarray(SCORES(features, is_source, training, 1e-6))[0]
  assert np.all(np.isfinite(scores))
  assert np.array_equal(scores > 0, is_source)


def test_standardized_features_do_not_see_the_sizes():
  rng = np.random.default_rng(2)
  source, target = rng.normal(size=(5, 3)), rng.normal(size=(8, 3))
  rows = np.concatenate([source, target]).astype(np.float32)
  repeated = np.concatenate([source, *[target] * 9]).astype(np.float32)
  once = np.asarray(STANDARDIZE(rows, np.arange(13) < 5))
  often = np.asarray(STANDARDIZE(repeated, np.arange(77) < 5))
  np.testing.assert_allclose(once, often[:13], atol=1e-5)
  mean = (once[:5].mean(0) + once[5:].mean(0)) / 2
  square = ((once[:5] ** 2).mean(0) + (once[5:] ** 2).mean(0)) / 2
  np.testing.assert_allclose(mean, 0, atol=1e-6)
  np.testing.assert_allclose(square, 1, rtol=1e-5)
