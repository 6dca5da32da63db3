"""Gradient reversal in both modes, on trees, with a traced scale."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.ops import reverse_gradient

TREE = {
  "a": np.float32([1.0, 2.0]),
  "b": (np.array(3.0, np.float32), np.arange(2)),
}


def loss(tree, scale):
  tree = reverse_gradient(tree, scale)
  return jnp.sum(tree["a"] ** 2) + tree["b"][0] * tree["b"][1][1]


def test_forward_is_the_identity_bit_for_bit():
  x = np.float32([1e4, 1e-30, -np.inf])
  np.testing.assert_array_equal(reverse_gradient(x, 0.3), x)


def test_backward_is_scaled_and_negated():
  gradient = jax.jit(jax.grad(loss, allow_int=True))(TREE, 0.5)
  np.testing.assert_allclose(gradient["a"], [-1, -2])
  np.testing.assert_allclose(gradient["b"][0], -0.5)


def test_forward_mode_agrees():
  _, tangent = jax.jvp(lambda x: reverse_gradient(x, 2.0), (3.0,), (1.0,))
  assert tangent == -2


def test_a_new_scale_does_not_recompile():
  gradient = jax.jit(
    jax.grad(chex.assert_max_traces(loss, n=1), allow_int=True)
  )
  for scale in (0.0, 0.5, 1.0):
    np.testing.assert_allclose(
      gradient(TREE, scale)["a"], -scale * 2 * TREE["a"]
    )
