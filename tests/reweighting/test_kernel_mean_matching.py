"""Kernel mean matching (KMM)."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from kdjax.reweighting import kmm_weights


def samples(n_source=16, n_target=24, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 0.7 * rng.normal(size=(n_target, dims)) + 0.5


def kernel(a, b, gamma):
  return np.exp(-gamma * np.sum((a[:, None] - b[None]) ** 2, -1))


def linear_gap(weights, gradient, upper, low, high):
  """How much a linear objective could still fall: bounds what is missing."""
  best, total = np.zeros_like(weights), 0.0
  for i in np.argsort(gradient):
    room = min(upper, high - total)
    if gradient[i] >= 0:
      room = min(room, max(0.0, low - total))
    best[i] = max(room, 0.0)
    total += best[i]
  return gradient @ (weights - best)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
  ("gamma", "upper", "epsilon"),
  [(0.3, 1000.0, 0.7), (1.0, 1.0, 0.15), (0.05, 2.0, 0.2), (3.0, 5.0, 1e-3)],
)
def test_kmm_is_optimal(dtype, gamma, upper, epsilon):
  source, target = samples(40, 30)
  n = len(source)
  with jax.enable_x64(dtype == np.float64):
    weights = KMM(
      jnp.asarray(source, dtype),
      jnp.asarray(target, dtype),
      gamma,
      upper,
      epsilon,
    )
  weights = np.float64(weights)
  gram = kernel(source, source, gamma)
  pull = n / len(target) * kernel(source, target, gamma).sum(1)
  tolerance = 1e-8 if dtype == np.float64 else 1e-4
  low, high = n * (1 - epsilon), n * (1 + epsilon)
  assert weights.min() >= 0
  assert weights.max() <= upper * (1 + tolerance)
  assert low - n * tolerance <= weights.sum() <= high + n * tolerance
  objective = weights @ gram @ weights / 2 - pull @ weights
  gap = linear_gap(weights, gram @ weights - pull, upper, low, high)
  assert gap <= tolerance * abs(objective)


def kmm(source, target, gamma, upper, epsilon):
  return kmm_weights(
    source,
    target,
    gamma=gamma,
    upper_bound=upper,
    epsilon=epsilon,
    normalize=False,
  )


KMM = jax.jit(kmm)


@pytest.mark.slow
def test_kmm_equals_a_general_solver():
  source, target = samples(9, 7)
  gram = kernel(source, source, 1 / 3)
  pull = 9 / 7 * kernel(source, target, 1 / 3).sum(1)
  epsilon = (np.sqrt(9) - 1) / np.sqrt(9)
  best = minimize(
    lambda w: w @ gram @ w / 2 - pull @ w,
    np.ones(9),
    jac=lambda w: gram @ w - pull,
    bounds=[(0, 2.5)] * 9,
    constraints=[
      {"type": "ineq", "fun": lambda w: w.sum() - 9 * (1 - epsilon)},
      {"type": "ineq", "fun": lambda w: 9 * (1 + epsilon) - w.sum()},
    ],
    method="SLSQP",
    options={"ftol": 1e-14, "maxiter": 500},
  )
  with jax.enable_x64(True):
    run = jax.jit(functools.partial(kmm_weights, normalize=False))
    weights = run(source, target, upper_bound=2.5)
  np.testing.assert_allclose(weights, best.x, atol=1e-4)


def test_kmm_with_a_linear_kernel_matches_means():
  source, target = samples(30, 40, 2)
  with jax.enable_x64(True):
    weights = jax.jit(functools.partial(kmm_weights, kernel="linear"))(
      source, target, epsilon=1e-6
    )
  mean = np.mean(np.asarray(weights)[:, None] * source, 0)
  np.testing.assert_allclose(mean, target.mean(0), atol=1e-4)


def test_one_program_for_all_hyper_parameters():
  source, target = map(jnp.float32, samples(40, 30))
  program = jax.jit(chex.assert_max_traces(kmm, n=1))
  program(source, target, 1.0, 2.0, 0.5)
  program(source, target, 0.3, 5.0, 0.1)
