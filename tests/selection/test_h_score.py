"""H-score, and its regularized form."""

import functools

import jax
import numpy as np
import pytest

from kdjax.selection import h_score, transrate
from tests import laws


def problem(n=16, dims=5, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(n) ** 2 % classes)
  labels[:classes] = np.arange(classes)
  centers = rng.normal(size=(classes, dims))
  return rng.normal(size=(n, dims)) + centers[labels], labels


FEATURES, LABELS = problem()
ROWS = np.float32(FEATURES)


@jax.jit
def h_scores(features, labels):
  """With the empirical covariance, and with the regularized one."""
  return (
    h_score(features, labels),
    h_score(features, labels, covariance="ledoit-wolf"),
  )


def case(score, hyper=None, **options):
  def of_features(features, unused, labels, **rest):
    del unused
    return score(features, labels, num_classes=3, **options, **rest)

  return laws.Case(
    of_features,
    (ROWS, ROWS, LABELS),
    hyper or {},
    coupled=True,
    unused=(1,),
  )


CASES = {
  "h_score": case(h_score),
  "transrate": case(transrate, {"epsilon": 0.01}),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  # Scaled channels change no H-score: the regularized one shows that law.
  if (name, law) != ("h_score", laws.vmap_and_devices_equal_the_loop):
    law(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize(
  "law",
  [
    laws.masked_examples_do_not_matter,
    laws.empty_mask_gives_zero,
    laws.one_example_is_finite,
    laws.extremes_are_finite,
    laws.vmap_and_devices_equal_the_loop,
  ],
)
def test_law_regularized(law):
  law(REGULARIZED)


REGULARIZED = case(h_score, covariance="ledoit-wolf")


def class_means(features, labels):
  return np.stack([features[labels == y].mean(0) for y in labels])


def shrunk(features):
  """Ledoit and Wolf's share and covariance, as their lemma 3.3 has it."""
  x = features - features.mean(0)
  n, dims = x.shape
  sample = x.T @ x / n
  target = np.trace(sample) / dims * np.eye(dims)
  distance = np.sum((sample - target) ** 2)
  spread = sum(np.sum((np.outer(r, r) - sample) ** 2) for r in x) / n**2
  share = min(spread, distance) / distance
  return share, share * target + (1 - share) * sample


SHAPES = [(40, 6, 3), (12, 20, 4), (90, 3, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_equals_numpy(shape):
  features, labels = problem(*shape, seed=1)
  between = np.cov(class_means(features, labels), rowvar=False)
  plain = np.trace(
    np.linalg.pinv(np.cov(features, rowvar=False), 1e-12) @ between
  )
  share, covariance = shrunk(features)
  regularized = (1 - share) * np.trace(np.linalg.solve(covariance, between))
  expected = plain, regularized
  with jax.enable_x64(True):
    np.testing.assert_allclose(h_scores(features, labels), expected, 1e-10)
  singles = h_scores(np.float32(features + 10), labels)
  np.testing.assert_allclose(singles, expected, rtol=1e-4)


def test_shrinkage_equals_scikit_learn():
  covariance = pytest.importorskip("sklearn.covariance")
  for shape in SHAPES:
    features, _ = problem(*shape, seed=2)
    share, _ = shrunk(features)
    np.testing.assert_allclose(
      share, covariance.LedoitWolf().fit(features).shrinkage_, rtol=1e-10
    )


@pytest.mark.slow
def test_h_score_limits():
  saturated, labels = problem(6, 20, 3)
  saturation, _ = h_scores(np.float32(saturated), labels)
  np.testing.assert_allclose(saturation, 2.0, rtol=1e-4)
  value, regularized = h_scores(ROWS, LABELS)
  mixed = ROWS @ np.random.default_rng(0).normal(size=(5, 5)) + 3
  invariant, _ = h_scores(np.float32(mixed), LABELS)
  np.testing.assert_allclose(invariant, value, rtol=1e-4)
  assert 0 < regularized < value < 2
  # Known labels, and with them the number of classes.
  known = jax.jit(lambda features: h_score(features, LABELS))(ROWS)
  np.testing.assert_allclose(known, value, rtol=1e-5)
  _, smaller = h_scores(np.float32(1e-3) * ROWS, LABELS)
  np.testing.assert_allclose(smaller, regularized, rtol=1e-4)


def test_regularized_gradient_holds_the_share():
  """Against NumPy's differences at the share of the point."""
  features, labels = problem(20, 4, 3)
  share, _ = shrunk(features)

  def value(features):
    x = features - features.mean(0)
    sample = x.T @ x / len(x)
    mean = np.trace(sample) / x.shape[1]
    covariance = (1 - share) * sample + share * mean * np.eye(x.shape[1])
    between = np.cov(class_means(features, labels), rowvar=False)
    return (1 - share) * np.trace(np.linalg.solve(covariance, between))

  step = 1e-6 * np.random.default_rng(1).normal(size=features.shape)
  with jax.enable_x64(True):
    gradient = jax.jit(
      jax.grad(lambda x: h_score(x, labels, covariance="ledoit-wolf"))
    )(features)
  difference = (value(features + step) - value(features - step)) / 2
  np.testing.assert_allclose(
    np.sum(np.asarray(gradient) * step), difference, rtol=1e-6
  )


@pytest.mark.slow
def test_equal_eigenvalues_have_finite_gradients():
  rows = np.concatenate([np.eye(4), -np.eye(4)])
  labels = np.array([0, 0, 1, 1, 1, 0, 0, 1])
  for score in (h_score, transrate):
    form = functools.partial(score, labels=labels, num_classes=2)
    laws.slopes_agree(form, (rows,), tolerance=1e-4)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="covariance is 'x'; expected one of"):
    h_score(ROWS, LABELS, covariance="x")
  with pytest.raises(ValueError, match="weighting is 'x'; expected one of"):
    transrate(ROWS, LABELS, weighting="x")
  with pytest.raises(ValueError, match=r"epsilon is 0.0; expected"):
    transrate(ROWS, LABELS, epsilon=0.0)
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    h_score(ROWS, LABELS[:3])
