"""The mean loss of each domain."""

import jax
import numpy as np

from kdjax.generalization import domain_losses


def test_domain_losses():
  losses = np.float32([[1.0, 3.0, 8.0], [2.0, 6.0, 7.0]])
  where = np.array([[True, True, False], [False, False, False]])

  @jax.jit
  def run(losses, where):
    over_devices = jax.vmap(
      lambda x, w: domain_losses(x, where=w, axis_name="d"), 1, axis_name="d"
    )
    return (
      domain_losses(losses),
      domain_losses(losses, where=where),
      over_devices(losses[:, :, None], where[:, :, None]),
    )

  every, masked, over_devices = run(losses, where)
  np.testing.assert_allclose(every, [4.0, 5.0])
  np.testing.assert_allclose(masked, [2.0, 0.0])
  np.testing.assert_allclose(over_devices, [[2.0, 0.0]] * 3)
