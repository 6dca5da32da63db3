"""Pooling equals Flax's, ties and padding included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.nets import max_pool

# Height, width, window, strides, padding.
CASES = [
  (4, 6, (2, 2), (2, 2), ((0, 0), (0, 0))),
  (5, 7, (2, 2), (2, 2), ((0, 0), (0, 0))),
  (6, 7, (3, 3), (2, 2), ((1, 1), (1, 1))),
  (5, 4, (3, 2), (1, 3), ((0, 2), (1, 0))),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_equal_flax(case):
  height, width, window, strides, padding = case
  rng = np.random.default_rng(0)
  shape = 3, height, width, 2
  # Few values, so that most windows have equal maxima.
  inputs = np.float32(rng.integers(-2, 2, shape))
  tangent = np.float32(rng.normal(size=shape))

  def ours(x):
    return max_pool(x, window, strides, padding)

  def theirs(x):
    return nnx.max_pool(x, window, strides=strides, padding=padding)

  @jax.jit
  def both(x, tangent):
    values = theirs(x)
    cotangent = jnp.sin(jnp.arange(values.size, dtype=jnp.float32))
    cotangent = cotangent.reshape(values.shape)
    (gradient,) = jax.vjp(theirs, x)[1](cotangent)
    (own_gradient,) = jax.vjp(ours, x)[1](cotangent)
    # Of equal maxima JAX's forward mode may take another than its gradient.
    _, moved = jax.jvp(ours, (x,), (tangent,))
    along = jnp.vdot(moved, cotangent)
    rows = jax.vmap(ours)(x[:, None])[:, 0]
    return (
      (ours(x), rows, own_gradient, along),
      (values, values, gradient, jnp.vdot(tangent, gradient)),
    )

  for a, b in zip(*both(inputs, tangent), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_maximum_of_nan_is_nan():
  for place in np.ndindex(2, 2):
    inputs = jnp.zeros((1, 2, 2, 1)).at[0, *place].set(jnp.nan)
    assert jnp.isnan(max_pool(inputs, (2, 2), (2, 2)))


def test_its_gradient_scatters_nothing():
  """What a CPU is slow with is not there."""

  def total(x):
    return jnp.sum(max_pool(x, (2, 2), (2, 2)))

  program = str(jax.make_jaxpr(jax.grad(total))(jnp.ones((1, 4, 4, 1))))
  assert "scatter" not in program
  assert "reduce_window" not in program
