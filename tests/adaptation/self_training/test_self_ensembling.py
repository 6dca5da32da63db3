"""Self-ensembling: the class balance of confident predictions."""

import jax
import numpy as np

from kdjax.adaptation import self_ensembling_balance_loss

rng = np.random.default_rng(0)
STRONG = 2 * rng.normal(size=(16, 5)).astype(np.float32)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_balance_is_least_where_the_mean_prediction_is_uniform():
  gradient = jax.jit(jax.value_and_grad(self_ensembling_balance_loss))
  every = np.ones(16, bool)
  m = softmax(STRONG).mean(0)
  expected = -np.mean(np.log(m) / 5 + 0.8 * np.log(1 - m))
  value, _ = gradient(STRONG, where=every)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  # Each class is sure as often as any other.
  uniform, _ = gradient(
    np.float32(1e4 * np.eye(5)[np.arange(16) % 5]), where=np.arange(16) < 15
  )
  assert uniform < value
  collapsed = np.float32(1e4 * (np.arange(5) == 0) * np.ones((16, 1)))
  for logits in (1e4 * STRONG, 0 * STRONG, 0 * STRONG + 1, collapsed):
    for leaf in gradient(logits, where=every):
      assert np.all(np.isfinite(leaf))
  empty, slope = gradient(STRONG, where=~every)
  assert empty == 0
  assert not np.any(slope)
  # Without a mask, and of two classes.
  plain = jax.jit(jax.value_and_grad(self_ensembling_balance_loss))
  for leaf in plain(collapsed[:, :2]):
    assert np.all(np.isfinite(leaf))
