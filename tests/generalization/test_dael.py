"""DAEL: an expert a domain, and their agreement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import (
  augmented_loss,
  crossgrad,
  dael_consistency_loss,
  dael_expert_loss,
  ddaig,
)
from tests import oracles
from tests.laws import trace

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(8, 3)).astype(np.float32)


def cubes(x):
  return jnp.sum(x**3, 1)


def softmax(x):
  return np.exp(oracles.log_softmax(x))


def test_dael_consistency_equals_numpy():
  strong, weak = RNG.normal(size=(3, 3, 4, 5)), RNG.normal(size=(3, 4, 5))
  q, target = softmax(strong), softmax(weak)
  expected = [
    ((q[d, [e for e in range(3) if e != d]].mean(0) - target[d]) ** 2).sum(-1)
    for d in range(3)
  ]

  @jax.jit
  def run(strong, weak):
    values, pull = jax.vjp(dael_consistency_loss, strong, weak)
    free = functools.partial(dael_consistency_loss, stop_teacher_gradient=False)
    by_teacher = jax.grad(lambda w: jnp.sum(free(strong, w)))(weak)
    return values, *pull(jnp.ones_like(values)), by_teacher

  with jax.enable_x64(True):
    values, by_strong, by_weak, by_teacher = jax.device_get(run(strong, weak))
  np.testing.assert_allclose(values, np.float64(expected), rtol=1e-10)
  assert not np.any(by_weak)
  np.testing.assert_array_equal(by_strong[np.arange(3), np.arange(3)], 0)
  assert np.all(np.abs(by_strong[0, 1]).sum(-1) > 0)
  assert np.any(by_teacher)


def test_dael_limits():
  weak = np.float32(RNG.normal(size=(2, 4, 5)))
  labels = RNG.integers(0, 5, (2, 4))

  @jax.jit
  def run(weak, labels):
    equal = jnp.broadcast_to(weak[:, None], (2, 2, 4, 5))
    return (
      dael_consistency_loss(equal, weak),
      dael_consistency_loss(equal[:1, :1], weak[:1]),
      dael_expert_loss(weak, labels, epsilon=0.01),
      [
        jax.value_and_grad(
          lambda z, s=stretch: jnp.sum(dael_expert_loss(s * z, labels))
        )(weak)
        for stretch in (0.0, 1e4)
      ],
    )

  same, alone, expert, stretched = run(weak, labels)
  np.testing.assert_allclose(same, 0, atol=1e-12)
  np.testing.assert_array_equal(alone, np.zeros((1, 4)))
  own = np.take_along_axis(softmax(weak), labels[..., None], -1)[..., 0]
  np.testing.assert_allclose(expert, -np.log(np.float64(own) + 0.01), rtol=1e-5)
  for value, gradient in stretched:
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_errors():
  with pytest.raises(ValueError, match="loss_fn returned shape"):
    trace(functools.partial(crossgrad, lambda x: x), INPUTS)
  with pytest.raises(ValueError, match="clip is 0"):
    trace(functools.partial(crossgrad, cubes), INPUTS, clip=0)
  with pytest.raises(ValueError, match=r"perturbation has shape \(8, 2\)"):
    trace(ddaig, INPUTS, INPUTS[:, :2])
  with pytest.raises(ValueError, match="alpha is 2"):
    trace(augmented_loss, INPUTS[:, 0], INPUTS[:, 0], alpha=2)
  with pytest.raises(
    ValueError, match=r"strong_logits has shape \(2, 3, 4, 5\)"
  ):
    trace(
      dael_consistency_loss,
      np.zeros((2, 3, 4, 5), np.float32),
      np.zeros((2, 4, 5), np.float32),
    )
