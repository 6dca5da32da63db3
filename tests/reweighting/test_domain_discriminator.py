"""Importance weights from a domain discriminator."""

import functools

import jax
import numpy as np

from kdjax.reweighting import discriminator_weights

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 4))
MASK = np.arange(16) % 5 != 1


def test_discriminator_takes_logits_too():
  logits = LOGITS[:, 0]
  expected = 1 / (1 / (1 + np.exp(-logits))) - 1  # 1 / D - 1
  run = jax.jit(discriminator_weights)
  weights = run(np.float32(logits), np.zeros(3, np.float32))
  np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)
  for z in (1e4 * logits, 0 * logits + 1e4, 0 * logits - 1e4):
    weights = run(np.float32(z))
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)
  masked = run(np.float32(logits), where_source=MASK)
  ratios = np.where(MASK, np.exp(-logits), 0)
  np.testing.assert_allclose(masked, ratios / ratios[MASK].mean(), 1e-5)
  bare = jax.jit(functools.partial(discriminator_weights, normalize=False))
  np.testing.assert_allclose(
    bare(np.float32(logits), where_source=MASK), ratios, rtol=1e-5
  )
  nothing = run(np.float32(logits), where_source=np.zeros(16, bool))
  np.testing.assert_array_equal(nothing, 0)
