"""Adaptive batch normalization (AdaBN)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.transforms import (
  adabn_init,
  adabn_normalize,
  adabn_update,
  fourier_domain_adaptation,
)
from tests.laws import trace

UPDATE = jax.jit(adabn_update)
EMPTY = adabn_init(5)
rng = np.random.default_rng(0)
X = rng.normal(loc=50.0, size=(24, 3, 5)).astype(np.float32)


@pytest.mark.slow
def test_statistics_of_parts_merge_to_those_of_the_whole():
  merge = UPDATE
  where = np.arange(24) % 5 > 0
  spoiled = np.where(where[:, None, None], X, np.nan)
  found = EMPTY
  for part in (slice(0, 7), slice(7, 8), slice(8, 24)):
    found = merge(found, spoiled[part], where=where[part])
  rows = np.float64(X[where]).reshape(-1, 5)
  np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-6)
  # An offset of 50 would cost the naive difference of squares 3 digits.
  np.testing.assert_allclose(found.variance, rows.var(0), rtol=2e-5)
  assert found.count == len(rows)
  again = merge(found, X, where=np.zeros(24, bool))
  np.testing.assert_allclose(again.mean, found.mean)
  np.testing.assert_allclose(again.variance, found.variance, rtol=1e-6)
  empty = merge(EMPTY, X, where=np.zeros(24, bool))
  assert not np.any(empty.variance)

  @jax.jit
  def normalize(x, found):
    scale, bias = jnp.full(5, 2.0), jnp.full(5, 3.0)
    return (
      adabn_normalize(x, found, epsilon=1e-6),
      adabn_normalize(x, found, scale, bias, epsilon=1e-6),
    )

  plain, moved = jax.device_get(normalize(X, found))
  y = plain[where]
  np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-4)
  np.testing.assert_allclose(y.std((0, 1)), 1, rtol=1e-4)
  np.testing.assert_allclose(moved, 2 * plain + 3, rtol=1e-4, atol=1e-4)


def test_eight_devices_equal_one():
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  where = np.arange(24) > 3
  sharded = jax.shard_map(
    lambda x, where: adabn_update(EMPTY, x, where=where, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P(),
  )
  got = jax.jit(sharded)(X, where)
  want = UPDATE(EMPTY, X, where=where)
  np.testing.assert_allclose(got.mean, want.mean, rtol=1e-6)
  np.testing.assert_allclose(got.variance, want.variance, rtol=1e-4)


def test_errors_name_the_argument():
  image = np.ones((4, 4, 1), np.float32)
  with pytest.raises(ValueError, match=r"target_images has shape \(4, 5, 1\)"):
    fourier_domain_adaptation(image, np.ones((4, 5, 1), np.float32))
  with pytest.raises(ValueError, match=r"beta is 1\.0; expected"):
    fourier_domain_adaptation(image, image, beta=1.0)
  four = np.ones((2, 4), np.float32)
  statistics = adabn_init(3)
  with pytest.raises(ValueError, match=r"statistics has \(3,\) channels"):
    trace(adabn_normalize, four, statistics)
  with pytest.raises(ValueError, match=r"statistics has \(3,\) channels"):
    trace(adabn_update, statistics, four)
