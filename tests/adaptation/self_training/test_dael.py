"""DAEL: what the experts of many sources teach each other on a target."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.adaptation import dael_loss

RNG = np.random.default_rng(0)
STRONG, WEAK = 2 * RNG.normal(size=(2, 16, 3, 4)).astype(np.float32)


def experts_last(strong, weak, **options):
  """The laws have examples on the first axis."""
  parts = (jnp.swapaxes(x, 0, 1) for x in (strong, weak))
  return dael_loss(*parts, **options)


def softmax(z, axis=-1):
  powers = np.exp(np.float64(z) - np.max(z, axis, keepdims=True))
  return powers / powers.sum(axis, keepdims=True)


def test_dael_equals_numpy():
  p, q = (softmax(np.swapaxes(x, 0, 1)) for x in (STRONG, WEAK))
  expected = np.zeros(16)
  for i in range(16):
    expert, label = np.unravel_index(np.argmax(q[:, i]), (3, 4))
    if q[expert, i, label] >= 0.8:
      expected[i] = -np.log(p[:, i, label].mean() + 1e-5)
  assert 0 < np.count_nonzero(expected) < 16
  with jax.enable_x64(True):
    got = jax.jit(experts_last)(
      np.float64(STRONG), np.float64(WEAK), threshold=0.8
    )
  np.testing.assert_allclose(got, expected, rtol=1e-12)
