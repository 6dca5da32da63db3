"""Spectral decoupling (SD)."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.generalization import sd_penalty


def test_sd_leaves_masked_classes_out():
  logits = np.float32([[1.0, -np.inf, 3.0], [-np.inf] * 3])
  value, gradient = jax.jit(
    jax.value_and_grad(lambda z: jnp.sum(sd_penalty(z)))
  )(logits)
  assert value == 5.0
  np.testing.assert_array_equal(gradient, [[1.0, 0.0, 3.0], [0.0] * 3])
