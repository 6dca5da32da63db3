"""Distances and norms: accuracy and the points where they are not smooth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.ops import pairwise_squared_distances, safe_abs, safe_norm
from tests import laws

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 8)).astype(np.float32)
B = RNG.normal(size=(7, 8)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_distances_equal_the_definition(offset):
  a, b = np.float32(A + offset), np.float32(B + offset)
  expected = np.square(np.float64(a)[:, None] - np.float64(b)[None]).sum(-1)
  # Compiled: every part of the program must subtract the same center.
  actual = jax.jit(pairwise_squared_distances)(a, b)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_equal_points_have_distance_and_gradient_zero():
  points = np.float32(30 * RNG.normal(size=(64, 256)) + 7)
  others = points[::-1]

  def total(x):
    squares = (
      pairwise_squared_distances(x, x),
      pairwise_squared_distances(x, others),
    )
    return sum(jnp.trace(x) for x in (squares[0], squares[1][::-1])), squares

  (value, (own, other)), gradient = jax.jit(
    jax.value_and_grad(total, has_aux=True)
  )(points)
  assert value == 0
  assert not np.any(gradient)
  assert np.all(own >= 0)
  np.testing.assert_allclose(own, other[:, ::-1], rtol=1e-5)


def test_close_points_attract_each_other():
  """What is left of their distance is 0, but not its gradient."""
  near = A + np.float32(1e-4)
  squares, pull = jax.jit(jax.vjp, static_argnums=0)(
    pairwise_squared_distances, near, A
  )
  assert not np.any(np.diagonal(squares))
  (gradient, _) = pull(np.eye(5, dtype=np.float32))
  np.testing.assert_allclose(gradient, 2 * (near - A), atol=1e-6)


def test_distance_differentials():
  weights = np.random.default_rng(1).normal(size=(5, 7))

  def total(a, b):
    return jnp.sum(weights * pairwise_squared_distances(a, b))

  laws.slopes_agree(total, (A, B))


def test_widths_must_agree():
  with pytest.raises(ValueError, match=r"b has shape \(7, 3\)"):
    pairwise_squared_distances(A, B[:, :3])


def test_absolute_values_have_no_slope_at_zero():
  x = np.float32([-2.0, -0.0, 0.0, 3.0, np.inf, np.nan])
  program = jax.jit(jax.vmap(jax.value_and_grad(safe_abs)))
  values, slopes = program(x)
  np.testing.assert_array_equal(values, np.abs(x))
  np.testing.assert_array_equal(slopes, [-1, 0, 0, 1, 1, np.nan])


def test_norms_equal_numpy():
  @jax.jit
  def norms(x):
    return safe_norm(x, axis=0, keepdims=True), safe_norm(x, axis=None)

  columns, whole = norms(A)
  expected = np.linalg.norm(A, axis=0, keepdims=True)
  np.testing.assert_allclose(columns, expected, rtol=1e-6)
  np.testing.assert_allclose(whole, np.linalg.norm(A), rtol=1e-6)


def test_the_gradient_at_zero_is_zero_in_both_modes():
  @jax.jit
  def slopes(x):
    _, tangent = jax.jvp(safe_norm, (x,), (jnp.ones_like(x),))
    return jax.grad(lambda x: jnp.sum(safe_norm(x)))(x), tangent

  gradient, tangent = slopes(np.zeros((2, 3), np.float32))
  np.testing.assert_array_equal(gradient, 0)
  np.testing.assert_array_equal(tangent, 0)
