"""Entropy of segmentations: ADVENT and MinEnt."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.adaptation import minent_loss, self_information
from tests import laws

RNG = np.random.default_rng(0)


def softmax(z, axis=-1):
  powers = np.exp(np.float64(z) - np.max(z, axis, keepdims=True))
  return powers / powers.sum(axis, keepdims=True)


def test_entropy_maps_equal_numpy():
  z = 2 * RNG.normal(size=(2, 4, 3, 5))
  p = softmax(z)
  maps = -p * np.log2(p) / np.log2(5)

  @jax.jit
  def run(z):
    return self_information(z), minent_loss(z)

  with jax.enable_x64(True):
    got, loss = run(z)
  np.testing.assert_allclose(got, maps, rtol=1e-12)
  np.testing.assert_allclose(loss, maps.sum(-1).mean((1, 2)), rtol=1e-12)
  laws.slopes_agree(lambda z: minent_loss(z)[0], (z,))


def test_entropy_maps_of_extremes():
  z = np.float32(2 * RNG.normal(size=(2, 4, 3, 5)))

  @jax.jit
  def run(z):
    maps, pull = jax.vjp(self_information, z)
    return maps, pull(jnp.ones_like(maps))[0], minent_loss(z)

  excluded = z.copy()
  excluded[..., :4] = -np.inf
  for changed, expected in ((0 * z, 1), (1e4 * z, 0), (excluded, 0)):
    maps, gradient, loss = run(changed)
    np.testing.assert_allclose(loss, expected, atol=1e-5)
    assert np.all(np.isfinite(maps))
    assert np.all(np.isfinite(gradient))
  half, _, loss = run(jnp.asarray(z, jnp.bfloat16))
  assert half.dtype == loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, run(z)[2], rtol=0.05)
