"""L2-SP: weight decay towards the pretrained parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.finetuning import l2_sp
from tests import laws


def trees(seed=0):
  rng = np.random.default_rng(seed)
  tree = {"body": [rng.normal(size=(3, 2)), rng.normal(size=4)]}
  return tree | {"head": {"kernel": rng.normal(size=(4, 2))}}


def test_l2_sp_in_numpy():
  params, start = trees(0), trees(1) | {"head": None}
  expected = 0.3 / 2 * sum(
    np.sum((a - b) ** 2)
    for a, b in zip(params["body"], start["body"], strict=True)
  ) + 0.7 / 2 * np.sum(params["head"]["kernel"] ** 2)
  with jax.enable_x64(True):
    value = jax.jit(l2_sp)(params, start, alpha=0.3, beta=0.7)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=1e-13)


def test_l2_sp_gradient_is_the_way_back():
  params, start = (jax.tree.map(np.float32, trees(i)) for i in (0, 1))
  run = jax.jit(jax.value_and_grad(l2_sp, (0, 1)))
  _, gradients = run(params, start)
  jax.tree.map(
    lambda g, a, b: np.testing.assert_allclose(g, a - b, rtol=1e-6),
    gradients[0],
    params,
    start,
  )
  assert not any(np.any(g) for g in jax.tree.leaves(gradients[1]))
  assert run(params, params)[0] == 0
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert laws.trace(l2_sp, half, start).dtype == jnp.float32


def test_l2_sp_of_arrays_and_of_new_parameters_alone():
  assert l2_sp(np.float32([1.0, 3.0]), np.float32([1.0, 1.0])) == 2.0
  assert l2_sp({"a": np.float32([2.0])}, None, beta=3.0) == 6.0
  assert l2_sp({}, {}) == 0


def test_l2_sp_names_the_path():
  x = np.ones(2, np.float32)
  with pytest.raises(ValueError, match=r"no counterpart of params\['b'\]"):
    l2_sp({"a": x, "b": x}, {"a": x})
  with pytest.raises(ValueError, match=r"pretrained_params\['b'\] has no"):
    l2_sp({"a": x}, {"a": x, "b": x})
  with pytest.raises(ValueError, match=r"\['a'\] has shape \(3,\); expected"):
    l2_sp({"a": x}, {"a": np.ones(3, np.float32)})
  with pytest.raises(TypeError, match=r"params\['a'\] has dtype int32"):
    l2_sp({"a": np.ones(2, np.int32)}, {"a": x})
  with pytest.raises(ValueError, match=r"no counterpart of params\['a'\]"):
    l2_sp({"a": {"b": x}}, {"a": x})
