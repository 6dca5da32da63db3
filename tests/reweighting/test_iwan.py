"""Importance-weighted adversarial networks (IWAN)."""

import jax
import numpy as np

from kdjax.reweighting import iwan_weights

IWAN = jax.jit(iwan_weights)
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 4))
MASK = np.arange(16) % 5 != 1


def test_iwan_equals_the_published_formula():
  logits = LOGITS[:, 0]
  raw = 1 - 1 / (1 + np.exp(-logits))
  for eps in (1e-5, 0.3):
    with jax.enable_x64(True):
      weights = IWAN(logits[:, None], epsilon=eps)
      masked = IWAN(
        np.where(MASK, logits, np.nan)[:, None], epsilon=eps, where=MASK
      )
    np.testing.assert_allclose(weights, raw / (raw.mean() + eps), rtol=1e-12)
    expected = np.where(MASK, raw / (raw[MASK].mean() + eps), 0)
    np.testing.assert_allclose(masked, expected, rtol=1e-12)
  sure = np.full(16, 1e4, np.float32)
  np.testing.assert_array_equal(IWAN(sure[:, None], epsilon=1e-5), 0)
  np.testing.assert_allclose(IWAN(sure[:, None], epsilon=0.0), 1)
  nothing = IWAN(np.float32(logits)[:, None], epsilon=1e-5, where=0 * MASK > 0)
  np.testing.assert_array_equal(nothing, 0)
