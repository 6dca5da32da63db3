"""Pooling and resizing as PyTorch does them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.ops import adaptive_mean_pool, nearest_resize

POOL, RESIZE = (
  jax.jit(function, static_argnums=1)
  for function in (adaptive_mean_pool, nearest_resize)
)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
  ("old", "new", "bins"),
  [
    (5, 3, [(0, 2), (1, 4), (3, 5)]),  # overlapping
    (4, 2, [(0, 2), (2, 4)]),
    (2, 3, [(0, 1), (0, 2), (1, 2)]),  # larger
  ],
)
def test_bins(old, new, bins):
  maps = RNG.normal(size=(2, old, 1, 3))
  expected = np.stack([maps[:, a:b].mean(1) for a, b in bins], 1)
  got = POOL(np.float32(maps), (new, 1))
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  across = POOL(np.float32(np.swapaxes(maps, 1, 2)), (1, new))
  np.testing.assert_array_equal(np.swapaxes(across, 1, 2), got)


def test_half_precision_is_averaged_in_float32():
  maps = np.ones((1, 2, 2, 1), jnp.bfloat16)
  maps[0, 0, 0, 0] = 257.0
  got = POOL(maps, (1, 1))
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, (float(maps[0, 0, 0, 0]) + 3) / 4)


@pytest.mark.parametrize(
  ("old", "new", "positions"),
  [(8, 4, [0, 2, 4, 6]), (5, 3, [0, 1, 3]), (2, 5, [0, 0, 0, 1, 1])],
)
def test_positions(old, new, positions):
  maps = RNG.normal(size=(2, old, old, 3))
  np.testing.assert_array_equal(
    RESIZE(np.float32(maps), (new, old)),
    np.float32(maps[:, positions]),
  )
  np.testing.assert_array_equal(
    RESIZE(np.float32(maps), (old, new)),
    np.float32(maps[:, :, positions]),
  )
