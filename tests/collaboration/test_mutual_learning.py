"""Mutual learning: peers on one device and on many, and their dynamics."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import codistillation_loss, mutual_loss
from kdjax.ops import kl_divergence

LOGITS = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)


MUTUAL = jax.jit(mutual_loss, static_argnames="reduction")


@pytest.mark.slow
def test_without_epsilon_it_is_the_kl_divergence_from_the_others():
  losses = MUTUAL(LOGITS, epsilon=0.0, reduction="mean")
  first, second = np.broadcast_arrays(LOGITS[:, None], LOGITS[None])
  pairs = np.asarray(jax.jit(kl_divergence)(first, second))
  np.testing.assert_allclose(losses, pairs.sum(1) / 3, rtol=1e-5)
  alone = MUTUAL(LOGITS[:1], reduction="mean")
  np.testing.assert_array_equal(alone, 0)


def test_epsilon_bounds_the_loss_of_a_class_that_one_peer_rules_out():
  """As the authors' formula, at probabilities of 0."""
  logits = np.array([[[0.0, -200.0]], [[-200.0, 0.0]]], np.float32)
  program = jax.jit(jax.value_and_grad(lambda z: mutual_loss(z)[0, 0]))
  value, gradient = program(logits)
  np.testing.assert_allclose(value, np.log(1e-8 + 1 / 1e-8), rtol=1e-5)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  "transform", [jax.vmap, pytest.param(jax.pmap, marks=pytest.mark.slow)]
)
def test_peers_on_a_mesh_axis_gather_predictions(transform):
  """Each device holds one peer, or two; the values are those of all."""
  split = LOGITS.reshape(2, 2, 3, 5)

  def loss(logits):
    return mutual_loss(logits, peer_axis_name="peer").sum()

  def whole(logits):
    return mutual_loss(logits).sum()

  mapped = transform(jax.value_and_grad(loss), axis_name="peer")
  value, gradient = jax.jit(mapped)(split)
  expected, slope = jax.jit(jax.value_and_grad(whole))(LOGITS)
  np.testing.assert_allclose(np.sum(value), expected, rtol=1e-5)
  np.testing.assert_allclose(
    gradient.reshape(LOGITS.shape), slope, rtol=1e-4, atol=1e-6
  )


def test_codistillation_takes_the_mean_of_stale_probabilities():
  losses = jax.jit(codistillation_loss)(LOGITS[0], LOGITS[1:])
  p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  expected = -(p[1:].mean(0) * np.log(p[0])).sum(-1)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="expected one of"):
    mutual_loss(LOGITS, reduction="max")
  with pytest.raises(ValueError, match="epsilon is -1; expected a number in"):
    mutual_loss(LOGITS, epsilon=-1)
  with pytest.raises(ValueError, match=r"logits has shape \(3, 5\)"):
    mutual_loss(LOGITS[0])
  with pytest.raises(ValueError, match=r"stale_logits has shape \(4, 3, 4\)"):
    codistillation_loss(LOGITS[0], LOGITS[..., :4])
