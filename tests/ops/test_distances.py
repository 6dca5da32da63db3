"""Distances and norms: accuracy and the points where they are not smooth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.ops import pairwise_squared_distances
from kdjax.ops import safe_norm

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 8)).astype(np.float32)
B = RNG.normal(size=(7, 8)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_equal_the_definition(offset):
  a, b = np.float32(A + offset), np.float32(B + offset)
  expected = np.square(np.float64(a)[:, None] - np.float64(b)[None]).sum(-1)
  actual = pairwise_squared_distances(a, b)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_equal_points_have_distance_and_gradient_zero():
  def total(x):
    return jnp.trace(pairwise_squared_distances(x, x))

  value, gradient = jax.value_and_grad(total)(jnp.array(A))
  np.testing.assert_allclose(value, 0, atol=1e-5)
  np.testing.assert_allclose(gradient, 0, atol=1e-5)
  assert jnp.all(pairwise_squared_distances(A, A) >= 0)


def test_distance_differentials():
  with jax.enable_x64(True):
    check_grads(
      pairwise_squared_distances,
      (jnp.asarray(A, jnp.float64), jnp.asarray(B, jnp.float64)),
      order=1,
    )


def test_widths_must_agree():
  with pytest.raises(ValueError, match=r"b has shape \(7, 3\)"):
    pairwise_squared_distances(A, B[:, :3])


def test_norms_equal_numpy():
  np.testing.assert_allclose(
    safe_norm(A, axis=0, keepdims=True),
    np.linalg.norm(A, axis=0, keepdims=True),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    safe_norm(A, axis=None), np.linalg.norm(A), rtol=1e-6
  )


def test_the_gradient_at_zero_is_zero_in_both_modes():
  zero = jnp.zeros((2, 3))
  gradient = jax.grad(lambda x: jnp.sum(safe_norm(x)))(zero)
  np.testing.assert_array_equal(gradient, 0)
  _, tangent = jax.jvp(safe_norm, (zero,), (jnp.ones_like(zero),))
  np.testing.assert_array_equal(tangent, 0)
