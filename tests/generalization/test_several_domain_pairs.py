"""CORAL and MMD over pairs of domains, against NumPy and adaptation's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import coral_loss
from kdjax.adaptation import mmd as two_domains_mmd
from kdjax.generalization import coral, mmd
from tests import laws

CORAL = jax.jit(coral, static_argnames="scaling")
MMD = jax.jit(mmd)
GRADIENTS = {
  coral: jax.jit(jax.value_and_grad(coral), static_argnames="scaling"),
  mmd: jax.jit(jax.value_and_grad(mmd)),
}

RNG = np.random.default_rng(0)
DOMAINS, DIMS = 3, 4
FEATURES = RNG.normal(size=(16, DOMAINS * DIMS)) * 2
FEATURES += np.repeat([0.0, 0.5, -1.0], DIMS)
FEATURES = FEATURES.astype(np.float32)
SAME = np.zeros((16, 1), np.float32)


def by_domain(function):
  """The function on examples `[16, domains * dims]`, one mask for all."""

  def loss(rows, _, where=None, **options):
    features = jnp.moveaxis(rows.reshape(-1, DOMAINS, DIMS), 1, 0)
    if where is not None:
      where = jnp.broadcast_to(where[None], (DOMAINS, *where.shape))
    return function(features, where=where, **options)

  return loss


def scaled_mmd(features, *, gamma, **options):
  return mmd(features, gammas=gamma * jnp.array([0.05, 0.2]), **options)


CASES = {
  "coral": laws.Case(
    by_domain(coral), (FEATURES, SAME), coupled=True, unused=(1,)
  ),
  "mmd": laws.Case(
    by_domain(scaled_mmd),
    (FEATURES, SAME),
    {"gamma": 1.0},
    coupled=True,
    unused=(1,),
  ),
}
NO_HYPER = {("coral", laws.no_recompilation)}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  if (name, law) not in NO_HYPER:
    law(CASES[name])


def uneven():
  """Domains of 9, 6 and 1 rows, padded by NaN, and one of none."""
  rng = np.random.default_rng(1)
  sizes = np.array([9, 6, 0, 5])
  features = rng.normal(size=(4, 9, DIMS)) + rng.normal(size=(4, 1, 1))
  where = np.arange(9)[None] < sizes[:, None]
  rows = [x[:n] for x, n in zip(features, sizes, strict=True) if n]
  return np.where(where[..., None], features, np.nan), where, rows


def pairs_mean(function, rows):
  values = [function(a, b) for a, b in itertools.combinations(rows, 2)]
  return np.mean(values)


def covariance_oracle(a, b, scaling):
  gaps = np.cov(a.T) - np.cov(b.T)
  if scaling == "paper":
    return np.mean(gaps**2) / 4
  return np.mean(gaps**2) + np.mean((a.mean(0) - b.mean(0)) ** 2)


def kernel_oracle(a, b, gammas):
  def mean(x, y):
    squares = np.sum((x[:, None] - y[None]) ** 2, -1)
    return np.mean(sum(np.exp(-g * squares) for g in gammas))

  return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@pytest.mark.parametrize("scaling", ["mean", "paper"])
def test_coral_is_the_mean_over_pairs(scaling):
  with jax.enable_x64(True):
    features, where, rows = uneven()
    value, gradient = GRADIENTS[coral](features, where=where, scaling=scaling)
    expected = pairs_mean(lambda a, b: covariance_oracle(a, b, scaling), rows)
    np.testing.assert_allclose(value, expected, rtol=1e-12)

    def pairwise(rows):
      pairs = list(itertools.combinations(rows, 2))
      losses = [coral_loss(a, b, scaling=scaling) for a, b in pairs]
      return sum(losses) / len(pairs)

    wanted = jax.jit(jax.grad(pairwise))(rows)
    gradient = np.asarray(gradient)
    kept = [g[w] for g, w in zip(gradient, where, strict=True) if w.any()]
    for got, want in zip(kept, wanted, strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(gradient[~where], 0)


@pytest.mark.slow
def test_mmd_is_the_mean_over_pairs():
  gammas = np.array([0.03, 0.4])
  with jax.enable_x64(True):
    features, where, rows = uneven()
    value, gradient = GRADIENTS[mmd](features, where=where, gammas=gammas)
    expected = pairs_mean(lambda a, b: kernel_oracle(a, b, gammas), rows)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_array_equal(np.asarray(gradient)[~where], 0)
    two = GRADIENTS[mmd](features[:2, :6], gammas=gammas)
    both = jax.jit(jax.value_and_grad(two_domains_mmd, (0, 1)))
    same = both(features[0, :6], features[1, :6], gammas=gammas)
    np.testing.assert_allclose(two[0], same[0], rtol=1e-10)
    np.testing.assert_allclose(two[1], np.stack(same[1]), atol=1e-12)


@pytest.mark.slow
def test_limits():
  features = np.random.default_rng(2).normal(size=(3, 5, 2)).astype(np.float32)
  equal = np.broadcast_to(features[:1], features.shape)
  for function in (CORAL, MMD):
    assert abs(function(equal)) < 1e-5
    assert function(features) > 0
    np.testing.assert_allclose(
      function(features[::-1]), function(features), rtol=1e-4
    )
    assert np.isfinite(function(features[:, :1]))
  for function in (coral, mmd):
    value, gradient = GRADIENTS[function](features[:1])
    assert abs(value) < 1e-6
    assert not np.any(gradient)
  np.testing.assert_allclose(
    CORAL(features + 100.0), CORAL(features), rtol=1e-3
  )


def test_errors():
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    coral(jnp.ones((2, 3, 4)), scaling="sum")
  with pytest.raises(ValueError, match=r"features has shape \(3, 4\)"):
    mmd(jnp.ones((3, 4)))
  with pytest.raises(ValueError, match="gammas is -1"):
    mmd(jnp.ones((2, 3, 4)), gammas=-1)
  with pytest.raises(ValueError, match=r"where has shape \(2, 4\)"):
    coral(jnp.ones((2, 3, 4)), where=jnp.ones((2, 4), bool))
