"""Sinkhorn, sliced Wasserstein and DeepJDOT against exact transport."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from kdjax.adaptation import (
  deepjdot_loss,
  sinkhorn_divergence,
  sliced_wasserstein,
)
from tests.laws import computed_in_float32, slopes_agree, trace


def samples(n_source=6, n_target=4, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 1.3 * rng.normal(size=(n_target, dims)) + 0.8


def costs_of(a, b, cost):
  if cost == "cosine":
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return 1 - a @ b.T
  squares = np.sum((a[:, None] - b[None]) ** 2, -1)
  return squares if cost == "squared_euclidean" else np.sqrt(squares)


def entropic(costs, epsilon):
  """The regularised cost, by its definition, from a plan of 2000 steps."""
  n, m = costs.shape
  kernel = np.exp(-costs / epsilon)
  v = np.ones(m)
  for _ in range(2000):
    u = 1 / (n * kernel @ v)
    v = 1 / (m * u @ kernel)
  plan = u[:, None] * kernel * v
  return np.sum(plan * costs) + epsilon * np.sum(plan * np.log(plan * n * m))


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean", "cosine"])
def test_sinkhorn_equals_numpy(cost):
  source, target = samples()
  c = functools.partial(costs_of, cost=cost)
  epsilon = 0.2 * c(source, target).mean()
  expected = entropic(c(source, target), epsilon) - 0.5 * (
    entropic(c(source, source), epsilon) + entropic(c(target, target), epsilon)
  )
  relative = functools.partial(
    sinkhorn_divergence, cost=cost, num_iterations=300
  )
  absolute = functools.partial(relative, scale="absolute", epsilon=epsilon)
  with jax.enable_x64(True):
    values = jax.jit(
      lambda s, t: (relative(s, t, epsilon=0.2), absolute(s, t))
    )(source, target)
  np.testing.assert_allclose(values, expected, rtol=1e-8)
  # The gradient of the optimum, without one through the iterations.
  slopes_agree(absolute, (source[::-1], target[::-1]))
  single = jax.jit(relative)(
    np.float32(source), np.float32(target), epsilon=0.2
  )
  np.testing.assert_allclose(single, expected, rtol=1e-3)


@pytest.mark.slow
def test_sinkhorn_limits():
  source, target = map(np.float32, samples(5, 5))

  @jax.jit
  def run(source, target):
    return (
      sinkhorn_divergence(source, target, epsilon=1e3),
      sinkhorn_divergence(source, target, epsilon=1e-3, num_iterations=2000),
      sinkhorn_divergence(source, source[::-1]),
    )

  far, near, same = run(source, target)
  # Epsilon to infinity: the distance of the means; to 0: optimal transport.
  gap = np.mean(source, 0) - np.mean(target, 0)
  np.testing.assert_allclose(far, gap @ gap, rtol=1e-2)
  costs = costs_of(*samples(5, 5), "squared_euclidean")
  matched = scipy.optimize.linear_sum_assignment(costs)
  np.testing.assert_allclose(near, costs[matched].mean(), rtol=1e-3)
  np.testing.assert_allclose(same, 0, atol=1e-5)


@pytest.mark.slow
def test_sliced_equals_scipy():
  source, target = samples(seed=2)
  rng = np.random.default_rng(1)
  directions = rng.normal(size=(3, 8))
  directions /= np.linalg.norm(directions, axis=0)
  first = np.mean(
    [
      scipy.stats.wasserstein_distance(source @ d, target @ d)
      for d in directions.T
    ]
  )
  # A point of a sample of 6 counts twice, one of 4 thrice.
  twelve = [
    np.sort(np.repeat(x @ directions, k, 0), 0)
    for x, k in ((source, 2), (target, 3))
  ]
  run = functools.partial(sliced_wasserstein, None, directions=directions)
  with jax.enable_x64(True):
    values = jax.jit(lambda s, t: (run(s, t, power=1), run(s, t)))(
      source, target
    )
  expected = first, np.mean((twelve[0] - twelve[1]) ** 2)
  np.testing.assert_allclose(values, expected, rtol=1e-12)
  slopes_agree(run, (source, target))


@pytest.mark.slow
def test_sliced_directions():
  source, target = map(np.float32, samples())
  shift = np.float32([[2.0, 0.0, 0.0]])

  @jax.jit
  def run(source, target, key):
    return (
      sliced_wasserstein(key, source, target, num_directions=16),
      sliced_wasserstein(key, source, target, num_directions=17),
      sliced_wasserstein(key, source, source + shift, num_directions=4096),
    )

  drawn, more, shifted = run(source, target, jax.random.key(3))
  assert drawn != more
  assert drawn != run(source, target, jax.random.key(4))[0]
  # The mean over the sphere of a shift is its square over the dims.
  np.testing.assert_allclose(shifted, 4 / 3, rtol=0.05)


def joint(n_source=5, n_target=5):
  source, target = samples(n_source, n_target)
  rng = np.random.default_rng(2)
  labels = rng.integers(0, 3, n_source)
  return source, target, labels, 2 * rng.normal(size=(n_target, 3))


def joint_costs(source, target, labels, logits, alpha, weight):
  log_p = logits - scipy.special.logsumexp(logits, 1, keepdims=True)
  gaps = costs_of(source, target, "squared_euclidean")
  return alpha * gaps - weight * log_p[:, labels].T


@pytest.mark.slow
def test_deepjdot_equals_numpy():
  data = joint()
  costs = joint_costs(*data, 0.3, 0.7)
  rows, columns = scipy.optimize.linear_sum_assignment(costs)
  plan = np.zeros((5, 5))
  plan[rows, columns] = 1 / 5
  weights = {"feature_weight": 0.3, "class_weight": 0.7}
  with jax.enable_x64(True):
    results = []
    for options in ({"plan": plan}, {"epsilon": 2e-4, "num_iterations": 2000}):
      form = functools.partial(deepjdot_loss, **weights, **options)
      results.append(jax.jit(jax.value_and_grad(form, (0, 1, 3)))(*data))
  (exact, wanted), (value, gradients) = results
  np.testing.assert_allclose(exact, np.sum(plan * costs), rtol=1e-12)
  # Sinkhorn's plan is the assignment up to epsilon and its last iteration.
  np.testing.assert_allclose(value, np.sum(plan * costs), rtol=1e-4)
  for got, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-3)


def sliced(source, target, **options):
  return sliced_wasserstein(
    jax.random.key(0), source, target, num_directions=8, **options
  )


def jdot(source, target, **options):
  labels = jnp.arange(source.shape[0]) % 3
  return deepjdot_loss(
    source, target, labels, target, class_weight=1.0, **options
  )


LOSSES = {
  "sinkhorn": sinkhorn_divergence,
  "sinkhorn euclidean": functools.partial(
    sinkhorn_divergence, cost="euclidean"
  ),
  "sinkhorn cosine": functools.partial(sinkhorn_divergence, cost="cosine"),
  "sliced": sliced,
  "deepjdot": jdot,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_masks_and_extremes(name):
  loss = LOSSES[name]
  source, target = map(np.float32, samples(6, 4))

  @jax.jit
  def masked(source, target, where_source, where_target):
    return jax.value_and_grad(loss, (0, 1))(
      source, target, where_source=where_source, where_target=where_target
    )

  # The labels of what is kept are those of the first rows.
  where, every = np.arange(6) < 4, np.ones(4, bool)
  spoiled = np.where(where[:, None], source, np.nan)
  value, gradients = masked(spoiled, target, where, every)
  expected, wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(
    source[:4], target
  )
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  np.testing.assert_allclose(gradients[0][:4], wanted[0], atol=2e-3)
  np.testing.assert_allclose(gradients[1], wanted[1], atol=2e-3)
  np.testing.assert_array_equal(gradients[0][4:], 0)

  value, gradients = masked(source, target, np.zeros(6, bool), every)
  assert value == 0
  assert not any(np.any(g) for g in gradients)
  same, all_of_source = np.ones((6, 3), np.float32), np.ones(6, bool)
  for a, b, mask in (
    (1e4 * source, -1e4 * target, all_of_source),
    (0 * source, 0 * target, all_of_source),
    (same, same[:4], all_of_source),
    (source, target, np.arange(6) == 2),
  ):
    value, gradients = masked(a, b, mask, every)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
  assert computed_in_float32(loss, source, target).dtype == jnp.float32


def test_an_excluded_class_is_finite():
  source, target, labels, logits = joint()
  logits = np.where(np.arange(3) == 1, -np.inf, logits)
  value, gradient = jax.jit(jax.value_and_grad(deepjdot_loss, 3))(
    np.float32(source), np.float32(target), labels, np.float32(logits)
  )
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_one_program_for_all_hyper_parameters():
  source, target, labels, logits = joint()
  source, target, logits = map(np.float32, (source, target, logits))
  traces = []

  @jax.jit
  def run(x):
    traces.append(None)
    return (
      sinkhorn_divergence(source, target, epsilon=x),
      sliced_wasserstein(
        jax.random.key(0), source, target, power=x + 1, num_directions=4
      ),
      deepjdot_loss(
        source, target, labels, logits, feature_weight=x, epsilon=x
      ),
    )

  first, second = run(0.1), run(0.3)
  assert len(traces) == 1
  assert all(a != b for a, b in zip(first, second, strict=True))


def test_errors_name_the_argument():
  source, target, labels, logits = joint()
  with pytest.raises(ValueError, match="epsilon is 0; expected"):
    sinkhorn_divergence(source, target, epsilon=0)
  with pytest.raises(ValueError, match="cost is 'l1'"):
    sinkhorn_divergence(source, target, cost="l1")
  with pytest.raises(ValueError, match="scale is 'max'"):
    trace(sinkhorn_divergence, source, target, scale="max")
  with pytest.raises(ValueError, match="got key and directions"):
    sliced_wasserstein(jax.random.key(0), source, target, directions=np.eye(3))
  with pytest.raises(TypeError, match="key is 7; expected a JAX random key"):
    sliced_wasserstein(7, source, target)
  with pytest.raises(ValueError, match=r"directions has shape \(2, 2\)"):
    sliced_wasserstein(None, source, target, directions=np.eye(2))
  plan = np.ones((5, 4), np.float32)
  with pytest.raises(ValueError, match=r"plan has shape \(5, 4\)"):
    trace(deepjdot_loss, source, target, labels, logits, plan=plan)
