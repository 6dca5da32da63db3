"""Inter-domain mixup and DomainMix."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import domainmix, mixed_loss, mixup
from tests import oracles

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(3, 4, 2, 2)).astype(np.float32)
LABELS = RNG.integers(0, 5, (3, 4))


def test_mixup_mixes_pairs_of_domains():
  where = np.ones((3, 4), bool)
  where[1, 3] = False
  partners, weights = np.array([1, 2, 0]), np.float32([0.2, 1.0, 0.6])
  mixed = jax.jit(mixup)(
    None, INPUTS, LABELS, partners=partners, weights=weights, where=where
  )
  w = weights[:, None, None, None]
  np.testing.assert_allclose(
    mixed.inputs, w * INPUTS + (1 - w) * INPUTS[partners], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(mixed.labels, LABELS)
  np.testing.assert_array_equal(mixed.partner_labels, LABELS[partners])
  np.testing.assert_array_equal(
    mixed.weights, np.broadcast_to(weights[:, None], (3, 4))
  )
  np.testing.assert_array_equal(mixed.where, where & where[partners])


@pytest.mark.slow
def test_mixup_draws_a_circle():
  program = jax.jit(chex.assert_max_traces(mixup, n=1))
  marks = np.float32(np.arange(3)[:, None, None] + np.zeros((3, 4, 1)))
  for seed in range(5):
    mixed = program(
      jax.random.key(seed),
      marks,
      np.repeat(np.arange(3)[:, None], 4, 1),
      alpha=0.5,
    )
    partners = np.asarray(mixed.partner_labels)[:, 0]
    np.testing.assert_array_equal(np.sort(partners), np.arange(3))
    assert np.all(partners != np.arange(3))
    weights = np.asarray(mixed.weights)
    assert np.all((weights >= 0) & (weights <= 1))
    assert len(set(weights[:, 0])) == 3
  program(jax.random.key(0), marks, LABELS, alpha=0.1)


@pytest.mark.slow
def test_domainmix_mixes_with_other_domains():
  domains = np.array([0, 0, 1, 1, 2, 2])
  inputs = np.float32(domains[:, None])
  program = jax.jit(domainmix, static_argnames="mix")
  mixed = jax.device_get(program(jax.random.key(0), inputs, domains, domains))
  assert np.all(mixed.partner_labels != domains)
  assert len(set(np.asarray(mixed.weights))) == 1
  expected = mixed.weights * domains + (1 - mixed.weights) * (
    mixed.partner_labels
  )
  np.testing.assert_allclose(mixed.inputs[:, 0], expected, rtol=1e-6)
  given = program(
    None,
    inputs.astype(jnp.bfloat16),
    domains,
    domains,
    partners=np.arange(6)[::-1].copy(),
    weights=np.full(6, 0.5, np.float32),
  )
  assert given.inputs.dtype == jnp.bfloat16
  np.testing.assert_array_equal(given.inputs, [[1.0]] * 6)


def test_mixed_loss_is_the_weighted_cross_entropy():
  logits = np.float32(RNG.normal(size=(6, 5)))
  labels, others = RNG.integers(0, 5, (2, 6))
  weights = np.float32(RNG.uniform(size=6))
  own, partner = (oracles.cross_entropy(logits, y) for y in (labels, others))
  np.testing.assert_allclose(
    jax.jit(mixed_loss)(logits, labels, others, weights),
    weights * own + (1 - weights) * partner,
    rtol=1e-5,
  )
  # A masked class with share 0 costs nothing.
  logits = np.float32([[0.0, -np.inf]])
  labels, others, weights = np.array([0]), np.array([1]), np.float32([1.0])
  loss, gradient = jax.jit(
    jax.value_and_grad(
      lambda z: jnp.sum(mixed_loss(z, labels, others, weights))
    )
  )(logits)
  assert loss == 0
  assert np.all(np.isfinite(gradient))


def test_errors():
  with pytest.raises(ValueError, match="mixup: key is None"):
    mixup(None, INPUTS, LABELS)
  with pytest.raises(ValueError, match="alpha is 0"):
    mixup(jax.random.key(0), INPUTS, LABELS, alpha=0)
  with pytest.raises(ValueError, match="mix is 'all'"):
    domainmix(jax.random.key(0), INPUTS[0], LABELS[0], LABELS[0], mix="all")
  with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
    mixup(None, INPUTS, LABELS, partners=np.arange(3), weights=np.ones(2))
