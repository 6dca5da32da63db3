"""Fourier domain adaptation (FDA)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.transforms import fourier_domain_adaptation
from tests.laws import trace

FDA = jax.jit(fourier_domain_adaptation)
rng = np.random.default_rng(0)


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
