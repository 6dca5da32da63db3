"""The cosine between gradients of two losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.metrics import gradient_cosine


def rows(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def test_gradient_cosine_equals_numpy():
  a = {"x": rows(3, 2), "y": rows(4, seed=1)}
  b = {"x": rows(3, 2, seed=2), "y": rows(4, seed=3)}
  flat = [np.concatenate([t["x"].ravel(), t["y"]]) for t in (a, b)]
  expected = flat[0] @ flat[1] / np.prod([np.linalg.norm(x) for x in flat])
  cosine = jax.jit(gradient_cosine)
  np.testing.assert_allclose(cosine(a, b), expected, rtol=1e-5)
  tiny = jax.tree.map(lambda x: np.float32(1e-30 * x), a)
  np.testing.assert_allclose(cosine(tiny, b), expected, rtol=1e-5)
  assert cosine(jax.tree.map(np.zeros_like, a), b) == 0
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), a)
  assert jax.eval_shape(gradient_cosine, half, half).dtype == jnp.float32


def test_gradient_cosine_names_what_differs():
  with pytest.raises(ValueError, match="tree_b has structure"):
    gradient_cosine({"x": np.ones(2)}, [np.ones(2)])
  with pytest.raises(ValueError, match=r"tree_b has shapes \[\(3,\)\]"):
    gradient_cosine([np.ones(2)], [np.ones(3)])
