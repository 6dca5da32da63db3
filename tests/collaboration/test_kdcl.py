"""KDCL's teachers: each is the best of its kind."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import kdcl_general_weights, kdcl_targets

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(3, 12, 4)).astype(np.float32)
LABELS = np.arange(12) % 4
TARGETS = jax.jit(kdcl_targets, static_argnames="method")


def entropies(logits):
  shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -np.take_along_axis(shifted, LABELS[:, None], -1)[:, 0]


@pytest.mark.slow
def test_linear_beats_all_other_combinations():
  linear = entropies(np.float64(TARGETS(LOGITS, LABELS, method="linear")))
  naive = entropies(np.float64(TARGETS(LOGITS, LABELS, method="naive")))
  peers = np.array([entropies(np.float64(x)) for x in LOGITS])
  np.testing.assert_allclose(naive, peers.min(0), rtol=1e-6)
  weights = RNG.dirichlet(np.ones(3) / 2, 500)
  mixed = np.einsum("nk,kbc->nbc", weights, np.float64(LOGITS))
  others = np.array([entropies(x) for x in mixed]).min(0)
  assert np.all(linear <= np.minimum(naive, others) + 1e-5)
  assert np.any(linear < naive - 1e-2)


@pytest.mark.parametrize("method", ["naive", "min_logit", "linear"])
def test_extremes_are_finite_without_gradient(method):
  def loss(logits):
    return kdcl_targets(logits, LABELS, method=method).sum()

  program = jax.jit(jax.value_and_grad(loss))
  for factor in (0.0, 1.0, 1e4):
    value, gradient = program(np.float32(factor) * LOGITS)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, 0)
  masked = np.where(np.arange(4) == 3, -np.inf, LOGITS)
  labels = LABELS % 3
  targets = np.asarray(TARGETS(masked, labels, method=method))
  np.testing.assert_array_equal(targets[:, 3], -np.inf)
  assert np.all(np.isfinite(targets[:, :3]))


def test_general_weights_minimize_the_squared_error():
  where = np.arange(12) != 5
  general = jax.jit(kdcl_general_weights)
  weights = general(LOGITS, LABELS, where=where)
  np.testing.assert_allclose(np.sum(weights), 1, rtol=1e-5)
  p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  gaps = (p - np.eye(4)[LABELS])[:, where]

  def error(weights):
    return np.square(np.einsum("k,kbc->bc", weights, gaps)).sum()

  best = error(np.float64(weights))
  for move in RNG.normal(size=(50, 3)):
    assert best <= error(weights + 0.1 * (move - move.mean())) + 1e-5
  split = [np.moveaxis(LOGITS.reshape(3, 4, 3, 4), 1, 0), LABELS.reshape(4, 3)]
  mapped = jax.vmap(
    lambda z, y, w: kdcl_general_weights(z, y, where=w, axis_name="batch"),
    axis_name="batch",
  )
  parts = jax.jit(mapped)(*split, where.reshape(4, 3))
  np.testing.assert_allclose(parts[0], weights, rtol=1e-4, atol=1e-5)
  spoiled = np.where(np.arange(12) == 3, 4, LABELS)
  assert np.all(np.isnan(general(LOGITS, spoiled, where=where)))
  spoiled = np.where(np.arange(12) == 5, 4, LABELS)  # a masked one
  np.testing.assert_allclose(
    general(LOGITS, spoiled, where=where), weights, rtol=1e-5
  )
  equal = general(LOGITS, LABELS, where=np.zeros(12, bool))
  np.testing.assert_allclose(equal, 1 / 3, rtol=1e-6)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="method is 'general'; expected one of"):
    kdcl_targets(LOGITS, LABELS, method="general")
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    kdcl_targets(LOGITS, LABELS[:3])
