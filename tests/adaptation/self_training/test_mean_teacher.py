"""Mean teacher and pi-model: consistency with an averaged teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.adaptation import consistency_loss

rng = np.random.default_rng(0)
STRONG = 2 * rng.normal(size=(16, 5)).astype(np.float32)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_consistency():
  p, q = softmax(STRONG), softmax(WEAK)
  confident = q.max(-1) >= 0.5

  @functools.partial(jax.jit, static_argnums=2)
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def run(a, b, stop):
    values = consistency_loss(a, b, threshold=0.5, stop_teacher_gradient=stop)
    return jnp.sum(values), values

  stopped, values = run(STRONG, WEAK, True)
  both, _ = run(STRONG, WEAK, False)
  np.testing.assert_allclose(
    values, np.sum((p - q) ** 2, -1) * confident, rtol=1e-5, atol=1e-7
  )
  assert not np.any(stopped[1])
  assert np.any(both[1])
  np.testing.assert_allclose(stopped[0], both[0], rtol=1e-6)
