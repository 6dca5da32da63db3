"""DebiasMatch: logits corrected by the mean prediction."""

import jax
import numpy as np

from kdjax.adaptation import debias_init, debias_logits, debias_update

rng = np.random.default_rng(0)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_debiasing_takes_frequent_classes_back():
  prior = debias_init(5)
  np.testing.assert_allclose(prior, 0.2)
  logits = WEAK + np.float32(3.0) * (np.arange(5) == 1)
  update, shift = jax.jit(debias_update), jax.jit(debias_logits)
  every = np.ones(16, bool)
  for _ in range(30):
    prior = update(prior, logits, momentum=0.5, where=every)
  np.testing.assert_allclose(prior, softmax(logits).mean(0), rtol=1e-4)
  moved = shift(logits, prior)
  np.testing.assert_allclose(moved, logits - np.log(prior), rtol=1e-5)
  assert np.all(np.isfinite(shift(WEAK, np.eye(5, dtype=np.float32)[0])))
  nothing = update(prior, WEAK, momentum=0.5, where=~every)
  np.testing.assert_allclose(nothing, prior, rtol=1e-6)
