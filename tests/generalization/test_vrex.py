"""Variance of risks (V-REx)."""

import jax
import numpy as np

from kdjax.generalization import vrex_penalty


def test_vrex_is_the_variance():
  losses = np.float32([1.0, 4.0, 2.0, 7.0])
  where = np.array([True, True, False, True])
  masked = jax.jit(jax.value_and_grad(vrex_penalty))

  @jax.jit
  def unmasked(losses):
    over_devices = jax.vmap(
      lambda x: vrex_penalty(x, axis_name="d"), axis_name="d"
    )
    return (
      vrex_penalty(losses),
      vrex_penalty(losses[:1]),
      over_devices(losses.reshape(2, 2)),
    )

  value, alone, over_devices = unmasked(losses)
  np.testing.assert_allclose(value, np.var(losses), rtol=1e-6)
  np.testing.assert_allclose(over_devices, np.var(losses), rtol=1e-6)
  assert alone == 0
  value, gradient = masked(np.where(where, losses, np.nan), where=where)
  np.testing.assert_allclose(value, np.var(losses[where]), rtol=1e-6)
  expected = 2 * (losses - losses[where].mean()) / 3 * where
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
  value, gradient = masked(losses, where=np.zeros(4, bool))
  assert value == 0
  assert not np.any(gradient)
