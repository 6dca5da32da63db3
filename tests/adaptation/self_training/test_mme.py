"""Minimax entropy (MME) with a classifier of prototypes."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.adaptation import mme_loss, prototype_logits

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_mme_plays_prototypes_against_features():
  features, prototypes = A, B[:3]
  z = unit(np.float64(A)) @ np.float64(B[:3]).T / 0.5

  @jax.jit
  def run(features, prototypes):
    arguments = features, prototypes
    return (
      prototype_logits(*arguments, temperature=0.5),
      mme_loss(*arguments, temperature=0.5),
    )

  logits, losses = run(features, prototypes)
  np.testing.assert_allclose(logits, z, rtol=1e-4, atol=1e-5)
  p = softmax(z)
  np.testing.assert_allclose(losses, np.sum(p * np.log(p), 1), rtol=1e-4)

  def loss(f, w, reversal):
    return jnp.sum(mme_loss(f, w, temperature=0.5, reversal=reversal))

  gradient = jax.jit(jax.grad(loss, (0, 1)))
  forward, reverse = (
    jax.device_get(gradient(features, prototypes, r)) for r in (-1.0, 0.5)
  )
  np.testing.assert_allclose(reverse[0], -0.5 * forward[0], rtol=1e-5)
  np.testing.assert_allclose(reverse[1], forward[1], rtol=1e-5)
  for stretch in np.float32([0.0, 1e4]):
    for leaf in gradient(stretch * features, prototypes, 1.0):
      assert np.all(np.isfinite(leaf))
