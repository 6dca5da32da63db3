"""H-score and TransRate in NumPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.finetuning import h_score
from kdjax.finetuning import transrate
from tests import laws


def problem(n=16, dims=5, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(n) ** 2 % classes)
  labels[:classes] = np.arange(classes)
  centers = rng.normal(size=(classes, dims))
  return rng.normal(size=(n, dims)) + centers[labels], labels


FEATURES, LABELS = problem()
H_SCORE = jax.jit(h_score, static_argnames="covariance")
ROWS = np.float32(FEATURES)


def case(score, hyper=None, **options):
  def of_features(features, unused, labels, **rest):
    del unused
    return score(features, labels, num_classes=3, **options, **rest)

  return laws.Case(of_features, (ROWS, ROWS, LABELS), hyper or {}, coupled=True)


CASES = {
  "h_score": case(h_score),
  "transrate": case(transrate, {"eps": 0.01}),
}


@pytest.mark.parametrize("law", laws.LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  # Scaled channels change no H-score: the regularized one shows that law.
  if (name, law) != ("h_score", laws.devices_agree):
    law(CASES[name])


@pytest.mark.parametrize(
  "law",
  [
    laws.masked_examples_do_not_matter,
    laws.empty_mask_gives_zero,
    laws.one_example_is_finite,
    laws.extremes_are_finite,
    laws.devices_agree,
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


@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_equals_numpy(shape):
  features, labels = problem(*shape, seed=1)
  between = np.cov(class_means(features, labels), rowvar=False)
  plain = np.trace(
    np.linalg.pinv(np.cov(features, rowvar=False), 1e-12) @ between
  )
  share, covariance = shrunk(features)
  regularized = (1 - share) * np.trace(np.linalg.solve(covariance, between))
  for kind, expected in (("empirical", plain), ("ledoit-wolf", regularized)):
    with jax.enable_x64(True):
      value = H_SCORE(features, labels, covariance=kind)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    single = H_SCORE(jnp.float32(features + 10), labels, covariance=kind)
    np.testing.assert_allclose(single, expected, rtol=1e-4)


def test_shrinkage_equals_scikit_learn():
  covariance = pytest.importorskip("sklearn.covariance")
  for shape in SHAPES:
    features, _ = problem(*shape, seed=2)
    share, _ = shrunk(features)
    np.testing.assert_allclose(
      share, covariance.LedoitWolf().fit(features).shrinkage_, rtol=1e-10
    )


def test_h_score_limits():
  saturated, labels = problem(6, 20, 3)
  np.testing.assert_allclose(H_SCORE(saturated, labels), 2.0, rtol=1e-4)
  value = H_SCORE(FEATURES, LABELS)
  mixed = FEATURES @ np.random.default_rng(0).normal(size=(5, 5)) + 3
  np.testing.assert_allclose(H_SCORE(mixed, LABELS), value, rtol=1e-4)
  regularized = H_SCORE(FEATURES, LABELS, covariance="ledoit-wolf")
  assert 0 < regularized < value < 2
  # Known labels, and with them the number of classes.
  np.testing.assert_allclose(h_score(FEATURES, LABELS), value, rtol=1e-5)
  np.testing.assert_allclose(
    H_SCORE(1e-3 * FEATURES, LABELS, covariance="ledoit-wolf"),
    regularized,
    rtol=1e-4,
  )


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


def rate(features, eps):
  n, dims = features.shape
  gram = features.T @ features / (n * eps)
  return 0.5 * np.linalg.slogdet(np.eye(dims) + gram)[1]


@pytest.mark.parametrize("weighting", ["uniform", "frequency"])
@pytest.mark.parametrize("shape", SHAPES)
def test_transrate_equals_numpy(shape, weighting):
  features, labels = problem(*shape, seed=4)
  eps, classes = 0.003, shape[2]
  x = features - features.mean(0)
  shares = np.bincount(labels) / len(labels)
  weights = np.full(classes, 1 / classes) if weighting == "uniform" else shares
  expected = rate(x, eps) - sum(
    w * rate(x[labels == c], eps) for c, w in enumerate(weights)
  )
  run = jax.jit(transrate, static_argnames=("weighting", "num_classes"))
  with jax.enable_x64(True):
    value = run(
      features, labels, eps=eps, weighting=weighting, num_classes=classes + 1
    )
  np.testing.assert_allclose(value, expected, rtol=1e-10)
  single = run(
    jnp.float32(features),
    labels,
    eps=eps,
    weighting=weighting,
    num_classes=classes,
  )
  np.testing.assert_allclose(single, expected, rtol=1e-3, atol=1e-3)


def test_transrate_needs_no_number_of_classes():
  expected = transrate(ROWS, LABELS)
  np.testing.assert_allclose(
    jax.jit(transrate)(ROWS, LABELS), expected, rtol=1e-4
  )
  np.testing.assert_allclose(transrate(ROWS, 3 * LABELS), expected, rtol=1e-4)


def test_equal_eigenvalues_have_finite_gradients():
  rows = jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
  labels = jnp.arange(8) % 2
  with jax.enable_x64(True):
    for score in (h_score, transrate):
      check_grads(
        jax.jit(lambda x, s=score: s(x, labels, num_classes=2)),
        (jnp.asarray(rows, jnp.float64),),
        1,
        ("fwd", "rev"),
        rtol=1e-4,
      )


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="covariance is 'x'; expected one of"):
    h_score(ROWS, LABELS, covariance="x")
  with pytest.raises(ValueError, match="weighting is 'x'; expected one of"):
    transrate(ROWS, LABELS, weighting="x")
  with pytest.raises(ValueError, match=r"eps is 0.0; expected"):
    transrate(ROWS, LABELS, eps=0.0)
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    h_score(ROWS, LABELS[:3])
