"""Other packages as oracles, where they are installed."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def package(name):
  """Imports a module, or skips the test; deep skada needs torch and skorch."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return pytest.importorskip(name, exc_type=ImportError)


def double(function, *arguments, **hyper):
  """The compiled function's values in float64."""
  with jax.enable_x64(True):
    arguments = jax.tree.map(jnp.asarray, arguments)
    return jax.device_get(jax.jit(function)(*arguments, **hyper))


def agree(got, want, tolerance):
  """Relative to the largest entry."""
  want = np.asarray(want)
  largest = np.max(np.abs(want))
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def samples(n_source=20, n_target=14, dims=3, seed=0):
  """A source, and a target that is turned, stretched and shifted."""
  rng = np.random.default_rng(seed)
  turn = np.eye(dims) + rng.normal(size=(dims, dims)) / 3
  source = rng.normal(size=(n_source, dims))
  return source, rng.normal(size=(n_target, dims)) @ turn + 0.5


def squared(a, b):
  """Squared distances of all pairs."""
  return np.sum((a[:, None] - b[None]) ** 2, -1)
