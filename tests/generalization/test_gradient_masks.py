"""AND- and SAND-masks against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import andmask, domain_gradients, sandmask
from tests.laws import trace

AND, SAND = jax.jit(andmask), jax.jit(sandmask)


def gradients(domains=5):
  rng = np.random.default_rng(domains)
  tree = {
    "w": rng.normal(size=(domains, 6, 4)),
    "b": rng.normal(size=(domains, 7)),
  }
  for leaf in tree.values():
    leaf[:, :3] = np.abs(leaf[:, :3])  # where all agree
    leaf[:4, 3:5] = -np.abs(leaf[:4, 3:5])  # where most do
  return tree


def and_oracle(stack, threshold):
  mask = np.abs(np.sign(stack).mean(0)) >= threshold - 1e-9
  return mask * stack.mean(0) / (1e-10 + mask.mean())


def sand_oracle(stack, threshold, sharpness):
  excess = np.abs(np.sign(stack).mean(0)) - threshold
  mask = np.maximum(np.tanh(sharpness * excess / stack.var(0, ddof=1)), 0)
  return mask * stack.mean(0) / (1e-10 + mask.mean())


@pytest.mark.parametrize("threshold", [1.0, 0.6, 0.0])
def test_andmask_equals_numpy(threshold):
  tree = gradients()
  with jax.enable_x64(True):
    masked = AND(tree, threshold=threshold)
  single = AND(jax.tree.map(np.float32, tree), threshold=threshold)
  for name, leaf in tree.items():
    expected = and_oracle(leaf, threshold)
    np.testing.assert_allclose(masked[name], expected, rtol=1e-12)
    np.testing.assert_allclose(single[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("threshold", "sharpness"), [(0.5, 0.3), (0.3, 2.0)])
def test_sandmask_equals_numpy(threshold, sharpness):
  tree = gradients()
  with jax.enable_x64(True):
    masked = SAND(tree, threshold=threshold, sharpness=sharpness)
  for name, leaf in tree.items():
    expected = sand_oracle(leaf, threshold, sharpness)
    np.testing.assert_allclose(masked[name], expected, rtol=1e-10)


@pytest.mark.parametrize("function", [andmask, sandmask])
def test_absent_domains_and_devices(function):
  tree = jax.tree.map(np.float32, gradients())
  kept = np.array([True, False, True, True, False])
  spoiled = jax.tree.map(
    lambda x: np.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan), tree
  )

  @jax.jit
  def run(tree, spoiled, where):
    over_devices = jax.vmap(
      lambda g, w: function(g, where=w, axis_name="d"), axis_name="d"
    )
    shards = jax.tree.map(lambda x: x[:, None], spoiled)
    return (
      function(jax.tree.map(lambda x: x[np.flatnonzero(kept)], tree)),
      function(spoiled, where=where),
      over_devices(shards, where[:, None]),
      function(tree, where=where & False),
    )

  expected, got, over_devices, nothing = jax.device_get(
    run(tree, spoiled, kept)
  )
  for name, want in expected.items():
    np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      over_devices[name][3], want, rtol=1e-4, atol=1e-6
    )
  assert not any(np.any(leaf) for leaf in nothing.values())


def test_a_threshold_that_no_agreement_exceeds():
  """Agreement is a rounded share: 4 against 1 domains are 0.6, no more."""
  stack = np.float32([[1.0], [2.0], [3.0], [4.0], [-1.0]])
  assert SAND(stack, threshold=0.6) == 0
  assert SAND(stack, threshold=0.59) > 0


def test_limits():
  equal = {"w": np.float32([[1.0, -2.0, 0.0]] * 3)}

  @jax.jit
  def run(equal, stack):
    return andmask(equal), sandmask(equal), sandmask(stack, threshold=1.0)

  by_and, by_sand, nothing = run(equal, jax.tree.map(np.float32, gradients()))
  # A domain's zero agrees with nothing: the rest is stretched by 3/2.
  np.testing.assert_allclose(by_and["w"], [1.5, -3.0, 0.0], rtol=1e-6)
  np.testing.assert_allclose(by_sand["w"], [1.5, -3.0, 0.0], rtol=1e-6)
  # The published default threshold of the smooth mask lets nothing through.
  for leaf in nothing.values():
    assert not np.any(leaf)
  half = trace(andmask, {"w": np.ones((2, 3), jnp.bfloat16)})["w"]
  assert half.dtype == jnp.bfloat16
  traced = jax.jit(chex.assert_max_traces(sandmask, n=1))
  traced(equal, threshold=0.1, sharpness=1.0)
  traced(equal, threshold=0.2, sharpness=2.0)


def test_domain_gradients_are_those_of_each_domain():
  rng = np.random.default_rng(0)
  params, batches = np.float32(rng.normal(size=3)), rng.normal(size=(4, 5, 3))
  batches = np.float32(batches)

  def loss_fn(params, batch):
    return jnp.mean(jnp.square(batch @ params))

  losses, stack = jax.device_get(domain_gradients(loss_fn, params, batches))
  for d in range(4):
    outputs = batches[d] @ params
    np.testing.assert_allclose(losses[d], np.mean(outputs**2), rtol=1e-5)
    np.testing.assert_allclose(
      stack[d], 2 * outputs @ batches[d] / 5, rtol=1e-4, atol=1e-6
    )


def test_errors():
  tree = {"w": np.ones((2, 3), np.float32)}
  with pytest.raises(ValueError, match="threshold is 2"):
    andmask(tree, threshold=2)
  with pytest.raises(ValueError, match="sharpness is 0"):
    sandmask(tree, sharpness=0)
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    andmask(tree, where=np.ones(3, bool))
