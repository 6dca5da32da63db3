"""Target shift (Zhang 2013): class weights that match kernel means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.reweighting import target_shift_weights


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


def test_target_shift_is_optimal():
  source, target = samples(40, 30)
  labels = np.arange(40) % 3
  gamma, upper, epsilon, n = 0.5, 10.0, 0.1, 40
  with jax.enable_x64(True):
    weights = jax.jit(
      functools.partial(
        target_shift_weights, num_classes=3, epsilon=epsilon, normalize=False
      )
    )(source, target, jnp.asarray(labels), gamma=gamma)
  members = np.eye(3)[labels]
  alpha = np.array(
    [np.mean(np.asarray(weights)[labels == c]) for c in range(3)]
  )
  np.testing.assert_allclose(weights, members @ alpha, rtol=1e-12)
  # skada's projection by the labels' kernel, its regulariser gone to 0.
  labelled = np.exp(-((labels[:, None] - labels[None]) ** 2.0))
  omega = labelled @ np.linalg.pinv(labelled, rcond=1e-9)
  within = omega @ kernel(source, source, gamma) @ omega.T
  quadratic = members.T @ within @ members
  pull = n / 30 * kernel(target, source, gamma).sum(0) @ omega.T @ members
  sizes = members.sum(0)
  gap = linear_gap(
    alpha * sizes,
    (quadratic @ alpha - pull) / sizes,
    np.inf,
    n * (1 - epsilon),
    n * (1 + epsilon),
  )
  objective = alpha @ quadratic @ alpha / 2 - pull @ alpha
  assert alpha.max() < upper
  assert gap <= 1e-6 * abs(objective)


@pytest.mark.slow
def test_target_shift_finds_the_classes_of_the_target():
  rng = np.random.default_rng(0)
  centers = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
  of_source = np.repeat(np.arange(3), 30)
  of_target = np.repeat(np.arange(3), [15, 60, 15])
  source = jnp.float32(centers[of_source] + rng.normal(size=(90, 2)) / 2)
  target = jnp.float32(centers[of_target] + rng.normal(size=(90, 2)) / 2)
  weights = jax.jit(functools.partial(target_shift_weights, num_classes=3))(
    source, target, jnp.asarray(of_source)
  )
  np.testing.assert_allclose(weights[::30], [0.5, 2.0, 0.5], atol=0.1)
