"""Variational information distillation (VID)."""

import jax
import numpy as np

from kdjax.distillation import vid_loss

RNG = np.random.default_rng(0)
MEAN, TEACHER = RNG.normal(size=(2, 16, 3, 4, 5)).astype(np.float32)
VARIANCE = RNG.uniform(0.1, 6, 5).astype(np.float32)


def test_vid_is_the_negative_log_likelihood_less_its_constant():
  mean, variance, teacher = map(np.float64, (MEAN, VARIANCE, TEACHER))
  density = np.exp(-((teacher - mean) ** 2) / (2 * variance)) / np.sqrt(
    2 * np.pi * variance
  )
  expected = -np.log(density).mean((1, 2, 3)) - np.log(2 * np.pi) / 2
  everywhere = np.broadcast_to(VARIANCE, MEAN.shape)
  variances = VARIANCE, everywhere, VARIANCE[None, None, None]
  for values in jax.jit(
    lambda *variances: [vid_loss(MEAN, v, TEACHER) for v in variances]
  )(*variances):
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_best_variance_is_the_squared_error():
  gradient = jax.jit(jax.grad(lambda v, x: vid_loss(0 * x, v, x)[0]))
  values = gradient(np.full(3, 4, np.float32), np.full((1, 3), 2, np.float32))
  np.testing.assert_allclose(values, 0, atol=1e-7)
