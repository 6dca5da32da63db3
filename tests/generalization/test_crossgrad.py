"""CrossGrad: inputs perturbed towards other domains."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import (
  augmented_loss,
  crossgrad,
  ddaig,
  ddaig_generator_loss,
)
from tests import oracles

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(8, 3)).astype(np.float32)


def cubes(x):
  return jnp.sum(x**3, 1)


MOVE = jax.jit(
  functools.partial(crossgrad, cubes), static_argnames=("scaling", "axis_name")
)


@pytest.mark.parametrize("scaling", ["mean", "sum"])
def test_crossgrad_steps_along_the_clipped_gradient(scaling):
  where = np.arange(8) < 6
  gradient = 3 * INPUTS**2 * where[:, None] / (6 if scaling == "mean" else 1)
  expected = INPUTS + 0.5 * np.clip(gradient, -0.4, 0.4)
  run = functools.partial(MOVE, epsilon=0.5, clip=0.4, scaling=scaling)
  np.testing.assert_allclose(run(INPUTS, where=where), expected, rtol=1e-5)
  over_devices = jax.jit(
    jax.vmap(
      lambda x, w: run(x, where=w, axis_name="d"),
      axis_name="d",
    )
  )(INPUTS.reshape(4, 2, 3), where.reshape(4, 2))
  np.testing.assert_allclose(
    np.reshape(over_devices, (8, 3)), expected, rtol=1e-5
  )


def test_crossgrad_details():
  traced = jax.jit(
    chex.assert_max_traces(lambda x, **k: crossgrad(cubes, x, **k), n=1)
  )
  traced(INPUTS, epsilon=0.1, clip=0.2)
  traced(INPUTS, epsilon=0.3, clip=0.4)

  @jax.jit
  def run(x, where):
    return (
      crossgrad(cubes, x, clip=float("inf"), scaling="sum"),
      jax.grad(lambda x: jnp.sum(crossgrad(cubes, x)))(x),
      crossgrad(cubes, x.astype(jnp.bfloat16)),
      crossgrad(cubes, x, where=where),
    )

  free, gradient, half, nothing = run(INPUTS, np.zeros(8, bool))
  np.testing.assert_allclose(free, INPUTS + 3 * INPUTS**2, rtol=1e-5)
  assert not np.any(gradient)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_array_equal(nothing, INPUTS)


def test_ddaig():
  perturbation = np.tanh(RNG.normal(size=(8, 3))).astype(np.float32)
  logits, by_domain = RNG.normal(size=(8, 5)), RNG.normal(size=(8, 2))
  labels, domains = RNG.integers(0, 5, 8), RNG.integers(0, 2, 8)

  @jax.jit
  def run(inputs, perturbation, logits, labels, by_domain, domains):
    return (
      ddaig(inputs, perturbation, weight=0.7),
      ddaig(inputs, perturbation, weight=0.7, bounds=(-0.5, 0.5)),
      ddaig_generator_loss(logits, labels, by_domain, domains),
      augmented_loss(inputs[:, 0], inputs[:, 1], alpha=0.2),
    )

  free, bounded, loss, mixed = run(
    INPUTS, perturbation, np.float32(logits), labels, np.float32(by_domain),
    domains,
  )  # fmt: skip
  moved = INPUTS + 0.7 * perturbation
  np.testing.assert_allclose(free, moved, rtol=1e-6)
  np.testing.assert_allclose(bounded, np.clip(moved, -0.5, 0.5), rtol=1e-6)
  np.testing.assert_allclose(
    loss,
    oracles.cross_entropy(logits, labels)
    - oracles.cross_entropy(by_domain, domains),
    rtol=1e-4,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    mixed, 0.8 * INPUTS[:, 0] + 0.2 * INPUTS[:, 1], rtol=1e-5
  )
