"""Branches: gates, attention and the ramp of their weight."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import (
  consistency_ramp,
  okddip_attention,
  okddip_loss,
  one_logits,
  one_loss,
)
from kdjax.ops import kl_divergence

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def test_gate_weighs_branches_and_gets_a_gradient():
  gate = RNG.dirichlet(np.ones(3), 4).astype(np.float32)
  expected = np.einsum("bm,mbc->bc", gate, LOGITS)
  np.testing.assert_allclose(one_logits(LOGITS, gate), expected, rtol=1e-5)
  gradient = jax.grad(lambda g: one_logits(LOGITS, g).sum())(gate)
  np.testing.assert_allclose(gradient, LOGITS.sum(-1).T, rtol=1e-5)
  masked = np.where(np.arange(5) == 0, -np.inf, LOGITS)
  only = np.broadcast_to(np.float32([0, 1, 0]), (4, 3))
  np.testing.assert_array_equal(one_logits(masked, only), masked[1])


def test_attention_is_learned_by_the_loss_of_the_peers():
  queries, keys = RNG.normal(size=(2, 4, 3, 2)).astype(np.float32)
  energy = np.einsum("bid,bjd->bij", queries, keys)
  expected = np.exp(energy) / np.exp(energy).sum(-1, keepdims=True)
  attention = okddip_attention(queries, keys)
  np.testing.assert_allclose(attention, expected, rtol=1e-5)
  losses = jax.jit(okddip_loss)(LOGITS, attention, temperature=2.0, epsilon=0)
  targets = np.einsum("bij,jbc->ibc", expected, LOGITS)
  divergence = jax.jit(kl_divergence)(LOGITS, targets, temperature=2.0)
  np.testing.assert_allclose(losses, 4 * divergence.sum(0), rtol=1e-4)

  def loss(queries):
    return okddip_loss(LOGITS, okddip_attention(queries, keys)).sum()

  assert np.all(np.any(jax.jit(jax.grad(loss))(queries) != 0, -1))


def test_ramp_ends_after_its_length():
  np.testing.assert_allclose(consistency_ramp(40), np.exp(-1.25), rtol=1e-6)
  assert consistency_ramp(100) == consistency_ramp(80) == 1
  with pytest.raises(ValueError, match="length is 0"):
    consistency_ramp(1, length=0)


@pytest.mark.parametrize("name", ["temperature", "epsilon"])
def test_numbers_below_their_range_are_errors(name):
  gate, attention = np.ones((4, 3)) / 3, np.ones((4, 3, 3)) / 3
  for loss, weights in ((one_loss, gate), (okddip_loss, attention)):
    with pytest.raises(ValueError, match=f"{name} is -1"):
      loss(LOGITS, np.float32(weights), **{name: -1})
