"""Weights that follow the worst domain."""

import chex
import jax
import numpy as np
import pytest

from kdjax.generalization import group_dro, irm_penalty

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 16)


def test_group_dro_is_exponentiated_gradient_ascent():
  losses, weights = np.array([1.0, 3.0, 0.5]), np.array([0.2, 0.3, 0.5])
  raised = weights * np.exp(0.7 * losses)
  raised /= raised.sum()
  with jax.enable_x64(True):
    (value, updated), gradient = jax.jit(
      jax.value_and_grad(group_dro, has_aux=True)
    )(losses, weights, 0.7)
  np.testing.assert_allclose(updated, raised, rtol=1e-12)
  np.testing.assert_allclose(value, raised @ losses, rtol=1e-12)
  # The weights have no gradient: that of the losses is the weights.
  np.testing.assert_allclose(gradient, raised, rtol=1e-12)


def test_group_dro_absent_domains_and_extremes():
  losses = np.float32([1.0, np.nan, 2.0])
  weights = np.full(3, 1 / 3, np.float32)
  where = np.array([True, False, True])
  run = jax.jit(chex.assert_max_traces(group_dro, n=1))
  value, updated = run(losses, weights, 0.5, where=where)
  present = np.exp([0.5, 1.0])
  np.testing.assert_allclose(
    value, present @ [1.0, 2.0] / present.sum(), rtol=1e-6
  )
  np.testing.assert_allclose(updated[1], 1 / (1 + present.sum()), rtol=1e-6)
  value, updated = run(losses, weights, 0.1, where=np.zeros(3, bool))
  assert value == 0
  np.testing.assert_allclose(updated, weights, rtol=1e-6)
  value, updated = jax.jit(group_dro)(
    np.float32([1e4, 0.0]), np.float32([0.5, 0.5]), 1.0
  )
  assert value == 1e4
  np.testing.assert_array_equal(updated, [1.0, 0.0])


def test_errors():
  with pytest.raises(ValueError, match="form is 'half'"):
    irm_penalty(LOGITS, LABELS, form="half")
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    irm_penalty(LOGITS, LABELS[:3])
  with pytest.raises(TypeError, match="labels has dtype float32"):
    irm_penalty(LOGITS, LOGITS[:, 0])
  with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
    group_dro(np.ones(3), np.ones(2))
  with pytest.raises(ValueError, match=r"step_size has shape \(3,\)"):
    group_dro(np.ones(3), np.ones(3), np.ones(3))
