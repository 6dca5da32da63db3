"""MixMatch: sharpened mean predictions of several views."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.adaptation import guess_labels, mixmatch_loss, sharpen

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_mixmatch():
  p = softmax(A)
  power = p ** (1 / 0.4)
  expected = power / power.sum(1, keepdims=True)
  views = np.stack([A, B])
  mean = softmax(views).mean(0) ** 2

  @jax.jit
  def run(p, views):
    guessed = guess_labels(views)
    sharpened = sharpen(p, temperature=0.4)
    return sharpened, guessed, mixmatch_loss(views[0], guessed)

  sharpened, guessed, losses = jax.device_get(run(np.float32(p), views))
  np.testing.assert_allclose(sharpened, expected, rtol=1e-4)
  np.testing.assert_allclose(
    guessed, mean / mean.sum(1, keepdims=True), rtol=1e-4
  )
  np.testing.assert_allclose(
    losses, np.mean((p - guessed) ** 2, 1), rtol=1e-4, atol=1e-7
  )
  of_first = jax.jit(jax.value_and_grad(lambda x: jnp.sum(sharpen(x)[..., 0])))
  zeros = np.zeros((3, 3), np.float32)
  for x in (zeros, np.eye(3, dtype=np.float32), zeros + np.float32(1e-30)):
    assert np.all(np.isfinite(of_first(x)[1]))
  assert not np.any(jax.jit(sharpen)(zeros))
