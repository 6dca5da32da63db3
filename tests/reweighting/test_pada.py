"""Partial adversarial domain adaptation (PADA): weights of classes."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.reweighting import pada_class_weights

PADA = jax.jit(pada_class_weights)
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 4))
LABELS = np.arange(16) % 4


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_pada_equals_the_published_formula():
  for temperature in (0.1, 1.0, 2.0):
    mean = softmax(LOGITS / temperature).mean(0)
    with jax.enable_x64(True):
      classes = PADA(LOGITS, temperature=temperature)
      rows = PADA(LOGITS, jnp.asarray(LABELS[:6]), temperature=temperature)
    np.testing.assert_allclose(classes, mean / mean.max(), rtol=1e-10)
    expected = mean[LABELS[:6]]
    np.testing.assert_allclose(rows, expected / expected.mean(), rtol=1e-10)
  wild = np.where(np.arange(4) == 2, -np.inf, 1e4 * LOGITS)
  classes = PADA(np.float32(wild), temperature=0.1)
  assert np.all(np.isfinite(classes))
  assert classes[2] == 0
  where = np.zeros(16, bool)
  nothing = PADA(np.float32(LOGITS), temperature=0.1, where_target=where)
  np.testing.assert_array_equal(nothing, 1)
