"""An optimizer that begins anew at a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods


def updates_of(optimizer, gradients):
  params = jnp.zeros(2)
  state = optimizer.init(params)

  @jax.jit
  def update(gradient, state):
    return optimizer.update(gradient, state, params)

  seen = []
  for gradient in gradients:
    step, state = update(gradient, state)
    seen.append(step)
  return np.array(seen)


@pytest.mark.parametrize("at", [0, 3, 100])
def test_the_moments_are_as_at_the_start_from_that_step_on(at):
  gradients = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
  adam = optax.adam(0.1)
  seen = updates_of(methods.restart_at(adam, at), gradients)
  parts = [gradients] if at in (0, 100) else [gradients[:at], gradients[at:]]
  expected = np.concatenate([updates_of(adam, part) for part in parts])
  np.testing.assert_allclose(seen, expected, rtol=1e-6)
