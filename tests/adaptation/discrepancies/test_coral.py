"""CORAL against NumPy's covariance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import coral_loss
from tests.laws import computed_in_float32, slopes_agree

CORAL = jax.jit(coral_loss, static_argnames="scaling")
STEP = jax.jit(
  jax.value_and_grad(coral_loss, (0, 1)), static_argnames="scaling"
)


def samples(n_source=9, n_target=6, dims=4):
  rng = np.random.default_rng(0)
  source = rng.normal(size=(n_source, dims))
  return source, 2 * rng.normal(size=(n_target, dims)) + 0.7


def oracle(source, target, scaling):
  difference = np.cov(source.T) - np.cov(target.T)
  if scaling == "paper":
    return np.sum(difference**2) / (4 * source.shape[1] ** 2)
  means = source.mean(0) - target.mean(0)
  return np.mean(difference**2) + np.mean(means**2)


@pytest.mark.parametrize("scaling", ["paper", "mean"])
def test_equals_numpy(scaling):
  source, target = samples()
  expected = oracle(source, target, scaling)
  with jax.enable_x64(True):
    value = CORAL(source, target, scaling=scaling)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
  form = functools.partial(coral_loss, scaling=scaling)
  slopes_agree(form, (source, target))
  # A large offset costs digits if the covariance is not centred first.
  hundred = np.float32(100)
  single, _ = STEP(
    np.float32(source) + hundred, np.float32(target) + hundred, scaling=scaling
  )
  np.testing.assert_allclose(single, expected, rtol=1e-3)


@pytest.mark.parametrize("scaling", ["paper", "mean"])
def test_masks(scaling):
  source, target = map(np.float32, samples())
  where = np.arange(9) % 3 > 0
  spoiled = np.where(where[:, None], source, np.nan)
  run = functools.partial(STEP, scaling=scaling)
  value, (gradient, _) = run(spoiled, target, where_source=where)
  expected, (wanted, _) = run(source[where], target)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  gradient = np.asarray(gradient)
  np.testing.assert_allclose(gradient[where], wanted, atol=1e-6)
  np.testing.assert_array_equal(gradient[~where], 0)

  value, gradients = run(source, target, where_source=np.zeros(9, bool))
  assert value == 0
  assert not any(np.any(g) for g in gradients)
  one, _ = run(source, target, where_source=np.arange(9) == 0)
  assert np.isfinite(one)


def test_properties():
  source, target = map(np.float32, samples())
  value = CORAL(source, target)
  assert CORAL(source, source[::-1]) < 1e-12
  np.testing.assert_allclose(
    CORAL(source + np.float32(3), target), value, rtol=1e-4
  )
  half = computed_in_float32(coral_loss, source, target)
  assert half.dtype == jnp.float32
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    coral_loss(source, target, scaling="sum")
  with pytest.raises(ValueError, match=r"target has shape \(6, 3\)"):
    coral_loss(source, target[:, :3])
