"""One reduction, the same on one device and on many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from kdjax.ops import gather_batch, masked_mean

VALUES = np.random.default_rng(0).uniform(1, 2, (16, 3)).astype(np.float32)
MASK = np.arange(16) % 5 > 1
MEAN = jax.jit(jax.value_and_grad(masked_mean))


def test_equals_numpy_on_the_selection():
  for mask, expected in ((MASK, VALUES[MASK].mean()), (None, VALUES.mean())):
    np.testing.assert_allclose(MEAN(VALUES, mask)[0], expected, rtol=1e-6)


def test_an_empty_mask_gives_zero_and_no_gradient():
  value, gradient = MEAN(VALUES, np.zeros(16, bool))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_masked_entries_may_be_infinite():
  values = np.where(MASK[:, None], VALUES, np.inf).astype(np.float32)
  value, gradient = MEAN(values, MASK)
  np.testing.assert_allclose(value, VALUES[MASK].mean(), rtol=1e-6)
  assert np.all(np.isfinite(gradient))


def test_bfloat16_sums_in_float32():
  assert jax.jit(masked_mean)(np.ones(1000, jnp.bfloat16)) == 1


@jax.jit
@jax.value_and_grad
def whole(values, mask):
  return masked_mean(jnp.square(values), mask)


@pytest.mark.parametrize("mode", ["vmap", "pmap", "shard_map"])
def test_eight_devices_equal_one(mode):
  """Value and gradient, with masks that differ between devices."""

  def loss(values, mask):
    return masked_mean(jnp.square(values), mask, axis_name="data")

  def value_and_gradient(values, mask):
    return jax.value_and_grad(loss)(values, mask)

  sharded = (VALUES.reshape(8, 2, 3), MASK.reshape(8, 2))
  if mode == "vmap":
    mapped = jax.vmap(value_and_gradient, axis_name="data")
    value, gradient = jax.jit(mapped)(*sharded)
  elif mode == "pmap":
    value, gradient = jax.pmap(value_and_gradient, axis_name="data")(*sharded)
  else:
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    data = PartitionSpec("data")
    value, gradient = jax.jit(
      jax.shard_map(
        value_and_gradient,
        mesh=mesh,
        in_specs=(data, data),
        out_specs=(PartitionSpec(), data),
      )
    )(VALUES, MASK)
  expected, expected_gradient = whole(VALUES, MASK)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  # Every device's copy of the loss is differentiated under vmap and pmap, so
  # their sum is 8 times the gradient there; a train step's pmean undoes it.
  copies = 1 if mode == "shard_map" else 8
  np.testing.assert_allclose(
    np.reshape(gradient, (16, 3)) / copies, expected_gradient, rtol=1e-5
  )


def test_gather_batch_restores_the_order():
  gather = jax.vmap(lambda x: gather_batch(x, "data"), axis_name="data")
  gathered = np.asarray(jax.jit(gather)(VALUES.reshape(8, 2, 3)))
  np.testing.assert_array_equal(gathered[3], VALUES)
  np.testing.assert_array_equal(gather_batch(VALUES, None), VALUES)


def test_the_mask_must_lead():
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    masked_mean(VALUES, np.ones(3, bool))
