"""KLIEP, uLSIF and RuLSIF against NumPy and SciPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from kdjax.reweighting import kliep_weights, ulsif_weights


def samples(n_source=16, n_target=24, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 0.7 * rng.normal(size=(n_target, dims)) + 0.5


def kernel(a, b, gamma):
  return np.exp(-gamma * np.sum((a[:, None] - b[None]) ** 2, -1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kliep_is_optimal(dtype):
  source, target = samples(40, 30)
  run = jax.jit(kliep_weights)
  for gamma in (0.1, 1.0, 8.0):
    with jax.enable_x64(dtype == np.float64):
      weights = np.float64(
        run(jnp.asarray(source, dtype), jnp.asarray(target, dtype), gamma=gamma)
      )
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
    features = kernel(source, target, gamma)
    means = features.mean(0)
    at_target = kernel(target, target, gamma)
    ratios = at_target / means
    best = minimize(
      lambda x, r=ratios: -np.mean(np.log(r @ (x**2 / np.sum(x**2)))),
      np.ones(30),
      method="L-BFGS-B",
      options={"maxiter": 20000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9},
    )
    expected = features / means @ (best.x**2 / np.sum(best.x**2))
    np.testing.assert_allclose(weights, expected, rtol=0.02, atol=5e-3)


@pytest.mark.slow
def test_kliep_reaches_what_frank_wolfe_approaches():
  source, target = samples(40, 30)
  features = kernel(target, target, 1.0) / kernel(source, target, 1.0).mean(0)
  x = np.full(30, 1 / 30)
  for step in range(5000):
    gradient = np.mean(features / (features @ x)[:, None], 0)
    best = np.argmax(gradient)
    rate = 2 / (step + 3)
    x = (1 - rate) * x + rate * np.eye(30)[best]
  with jax.enable_x64(True):
    run = jax.jit(functools.partial(kliep_weights, gamma=1.0))
    weights = np.asarray(run(source, target))
  expected = kernel(source, target, 1.0) / kernel(source, target, 1.0).mean(0)
  np.testing.assert_allclose(weights, expected @ x, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_ulsif_equals_numpy(alpha):
  source, target = samples(20, 30)
  centers = target[:12]
  of_source, of_target = (kernel(x, centers, 0.7) for x in (source, target))
  products = alpha * of_target.T @ of_target / 30
  products += (1 - alpha) * of_source.T @ of_source / 20
  theta = np.linalg.solve(products + 0.05 * np.eye(12), of_target.mean(0))
  expected = of_source @ np.maximum(theta, 0)
  with jax.enable_x64(True):
    weights = ULSIF(source, target, 0.7, 0.05, alpha)
  np.testing.assert_allclose(weights, expected, rtol=1e-9)
  scaled = jax.jit(
    functools.partial(ulsif_weights, num_centers=12, gamma=0.7, ridge=0.05)
  )(jnp.float32(source), jnp.float32(target), alpha=alpha)
  np.testing.assert_allclose(scaled, expected / expected.mean(), rtol=1e-4)


ULSIF = jax.jit(
  lambda source, target, gamma, ridge, alpha: ulsif_weights(
    source,
    target,
    gamma=gamma,
    ridge=ridge,
    alpha=alpha,
    num_centers=12,
    normalize=False,
  )
)


@pytest.mark.slow
def test_ulsif_chooses_by_held_out_error():
  source, target = samples(40, 30)
  gammas, ridges = [0.01, 0.5, 20.0], [1e-3, 1.0]
  scores = {}
  for gamma in gammas:
    of_source, of_target = (kernel(x, target, gamma) for x in (source, target))
    for ridge in ridges:
      errors = []
      for fold in range(3):
        s, t = np.arange(40) % 3 == fold, np.arange(30) % 3 == fold
        products = of_source[~s].T @ of_source[~s] / np.sum(~s)
        theta = np.linalg.solve(
          products + ridge * np.eye(30), of_target[~t].mean(0)
        )
        theta = np.maximum(theta, 0)
        errors.append(
          np.mean((of_source[s] @ theta) ** 2) / 2
          - np.mean(of_target[t] @ theta)
        )
      scores[gamma, ridge] = np.mean(errors)
  gamma, ridge = min(scores, key=scores.get)
  form = jax.jit(functools.partial(ulsif_weights, num_folds=3))
  with jax.enable_x64(True):
    several = jnp.array(gammas), jnp.array(ridges)
    chosen = form(source, target, gamma=several[0], ridge=several[1])
    expected = form(source, target, gamma=gamma, ridge=ridge)
  np.testing.assert_allclose(chosen, expected, rtol=1e-7)


@pytest.mark.slow
def test_kliep_chooses_a_width_that_is_neither_least_nor_largest():
  source, target = map(jnp.float32, samples(60, 60, 1))
  form = jax.jit(functools.partial(kliep_weights, num_centers=30, num_folds=2))
  gammas = jnp.array([1e-4, 1.0, 1e4])
  key = jax.random.key(0)
  chosen = form(source, target, gamma=gammas, key=key)
  fixed = form(source, target, gamma=gammas[1], key=key)
  np.testing.assert_allclose(chosen, fixed, rtol=1e-3, atol=1e-4)
