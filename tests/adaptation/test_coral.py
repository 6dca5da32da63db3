"""CORAL against NumPy's covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import coral_loss

CORAL = jax.jit(coral_loss, static_argnames="scaling")


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
    check_grads(
      lambda s, t: CORAL(s, t, scaling=scaling),
      (jnp.asarray(source), jnp.asarray(target)),
      order=1,
      modes=("fwd", "rev"),
    )
  # A large offset costs digits if the covariance is not centred first.
  single = CORAL(
    jnp.float32(source) + 100.0, jnp.float32(target) + 100.0, scaling=scaling
  )
  np.testing.assert_allclose(single, expected, rtol=1e-3)


@pytest.mark.parametrize("scaling", ["paper", "mean"])
def test_masks(scaling):
  source, target = map(jnp.float32, samples())
  where = jnp.arange(9) % 3 > 0
  spoiled = jnp.where(where[:, None], source, jnp.nan)

  def masked(x):
    return CORAL(x, target, scaling=scaling, where_source=where)

  def sliced(x):
    return CORAL(x[where], target, scaling=scaling)

  value, gradient = jax.value_and_grad(masked)(spoiled)
  expected, wanted = jax.value_and_grad(sliced)(source)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted, atol=1e-6)

  value, gradients = jax.value_and_grad(CORAL, (0, 1))(
    source, target, scaling=scaling, where_source=jnp.zeros(9, bool)
  )
  assert value == 0
  assert not any(np.any(g) for g in gradients)
  assert np.isfinite(coral_loss(source[:1], target, scaling=scaling))


def test_properties():
  source, target = map(jnp.float32, samples())
  assert coral_loss(source, source[::-1]) < 1e-12
  np.testing.assert_allclose(
    coral_loss(source + 3.0, target), coral_loss(source, target), rtol=1e-4
  )
  half = coral_loss(*(x.astype(jnp.bfloat16) for x in (source, target)))
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, coral_loss(source, target), rtol=0.02)
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    coral_loss(source, target, scaling="sum")
  with pytest.raises(ValueError, match=r"target has shape \(6, 3\)"):
    coral_loss(source, target[:, :3])
