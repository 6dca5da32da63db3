"""Fourier domain adaptation and AdaBN against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.adaptation import adabn_normalize
from kdjax.adaptation import adabn_statistics
from kdjax.adaptation import fourier_domain_adaptation
from tests.laws import trace

FDA = jax.jit(fourier_domain_adaptation)
STATISTICS = jax.jit(adabn_statistics)
rng = np.random.default_rng(0)
X = rng.normal(loc=50.0, size=(24, 3, 5)).astype(np.float32)


def fda_oracle(source, target, size):
  axes = (-3, -2)
  f, g = (np.fft.fft2(x, axes=axes) for x in (source, target))
  amplitude, other = (np.fft.fftshift(np.abs(x), axes=axes) for x in (f, g))
  h, w = source.shape[-3] // 2, source.shape[-2] // 2
  window = (
    ...,
    slice(max(h - size, 0), h + size + 1),
    slice(max(w - size, 0), w + size + 1),
    slice(None),
  )
  amplitude[window] = other[window]
  mixed = np.fft.ifftshift(amplitude, axes=axes) * np.exp(1j * np.angle(f))
  return np.real(np.fft.ifft2(mixed, axes=axes))


@jax.jit
def known_betas(source, target):
  """Of numbers that are known while tracing."""
  return {
    beta: fourier_domain_adaptation(source, target, beta=beta)
    for beta in (0.0, 0.09, 0.3, 0.5)
  }


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (7, 10, 1)])
def test_fda_equals_numpy(shape):
  source, target = rng.uniform(size=shape), 3 * rng.uniform(size=shape)
  side = min(shape[-3:-1])
  with jax.enable_x64(True):
    for size in range(side // 2 + 1):
      got = FDA(source, target, half_width=size)
      want = fda_oracle(source, target, size)
      np.testing.assert_allclose(got, want, atol=1e-12)
    for beta, got in known_betas(source, target).items():
      want = fda_oracle(source, target, int(np.floor(side * beta)))
      np.testing.assert_allclose(got, want, atol=1e-12)
  single = FDA(np.float32(source), np.float32(target), beta=0.3)
  np.testing.assert_allclose(
    single, fda_oracle(source, target, int(0.3 * side)), atol=1e-5
  )


def test_fda_limits_and_extremes():
  source = np.float32(rng.uniform(size=(6, 6, 2)))
  target = np.float32(rng.uniform(size=(6, 6, 2)))
  np.testing.assert_allclose(FDA(source, source, beta=0.5), source, atol=1e-6)
  mean_only = np.asarray(FDA(source, target, beta=0.0))
  np.testing.assert_allclose(
    mean_only.mean((0, 1)), target.mean((0, 1)), rtol=1e-5
  )
  np.testing.assert_allclose(
    mean_only - mean_only.mean((0, 1), keepdims=True),
    source - source.mean((0, 1), keepdims=True),
    atol=1e-5,
  )
  half = trace(FDA, source.astype(jnp.bfloat16), target)
  assert half.dtype == jnp.float32
  gradient = jax.jit(
    jax.grad(lambda s, t: jnp.sum(jnp.square(FDA(s, t, beta=0.3))), (0, 1))
  )
  for stretch in np.float32([0.0, 1e-25, 1.0, 1e15]):
    for leaf in gradient(stretch * source, stretch * target):
      assert np.all(np.isfinite(leaf))


def test_statistics_of_parts_merge_to_those_of_the_whole():
  merge = STATISTICS
  where = np.arange(24) % 5 > 0
  spoiled = np.where(where[:, None, None], X, np.nan)
  found = None
  for part in (slice(0, 7), slice(7, 8), slice(8, 24)):
    found = merge(spoiled[part], found, where=where[part])
  rows = np.float64(X[where]).reshape(-1, 5)
  np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-6)
  # An offset of 50 would cost the naive difference of squares 3 digits.
  np.testing.assert_allclose(found.variance, rows.var(0), rtol=2e-5)
  assert found.count == len(rows)
  again = merge(X, found, where=np.zeros(24, bool))
  np.testing.assert_allclose(again.mean, found.mean)
  np.testing.assert_allclose(again.variance, found.variance, rtol=1e-6)
  empty = merge(X, where=np.zeros(24, bool))
  assert not np.any(empty.variance)

  @jax.jit
  def normalize(x, found):
    scale, bias = jnp.full(5, 2.0), jnp.full(5, 3.0)
    return (
      adabn_normalize(x, found, eps=1e-6),
      adabn_normalize(x, found, scale, bias, eps=1e-6),
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
    lambda x, where: adabn_statistics(x, where=where, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P(),
  )
  got = jax.jit(sharded)(X, where)
  want = STATISTICS(X, where=where)
  np.testing.assert_allclose(got.mean, want.mean, rtol=1e-6)
  np.testing.assert_allclose(got.variance, want.variance, rtol=1e-4)


def test_errors_name_the_argument():
  image = np.ones((4, 4, 1), np.float32)
  with pytest.raises(ValueError, match=r"target_images has shape \(4, 5, 1\)"):
    fourier_domain_adaptation(image, np.ones((4, 5, 1), np.float32))
  with pytest.raises(ValueError, match=r"beta is 1\.0; expected"):
    fourier_domain_adaptation(image, image, beta=1.0)
  three, four = (np.ones((2, n), np.float32) for n in (3, 4))
  statistics = trace(adabn_statistics, three)
  with pytest.raises(ValueError, match=r"statistics has \(3,\) channels"):
    trace(adabn_normalize, four, statistics)
  with pytest.raises(ValueError, match=r"statistics has \(3,\) channels"):
    trace(adabn_statistics, four, statistics)
