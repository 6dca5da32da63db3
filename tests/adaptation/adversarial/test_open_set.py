"""OSBP: known or unknown, against the paper in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import osbp_loss
from kdjax.ops import reverse_gradient
from tests.laws import computed_in_float32


def logits(n=9, classes=5):
  return 2 * np.random.default_rng(0).normal(size=(n, classes))


def softmax(z):
  powers = np.exp(z - z.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


@jax.jit
def value_and_gradient(z, share, eps):
  def loss(z):
    values = osbp_loss(z, unknown_share=share, epsilon=eps)
    return jnp.sum(values), values

  return jax.grad(loss, has_aux=True)(z)[::-1]


@pytest.mark.parametrize(("share", "eps"), [(0.5, 1e-6), (0.2, 0.0)])
def test_equals_numpy(share, eps):
  z = logits()
  p = softmax(z)
  unknown = p[:, -1]
  expected = -share * np.log(unknown + eps)
  expected -= (1 - share) * np.log(1 - unknown + eps)
  slope = (1 - share) / (1 - unknown + eps) - share / (unknown + eps)
  gradient = (slope * unknown)[:, None] * (np.eye(5)[-1] - p)
  with jax.enable_x64(True):
    got = value_and_gradient(z, share, eps)
  np.testing.assert_allclose(got[0], expected, rtol=1e-12)
  np.testing.assert_allclose(got[1], gradient, atol=1e-12)


@pytest.mark.slow
def test_the_classifier_holds_what_the_features_push_away():
  """At p = t nothing moves; reversed, the gradient leads away from there."""
  known = np.zeros((3, 2), np.float32)
  # With two known classes at 0, p = 1/2 for a logit of log 2.
  unknown = np.float32(np.log(2) + np.array([-1.0, 0.0, 1.0]))
  z = np.concatenate([known, unknown[:, None]], 1)
  _, gradient = value_and_gradient(z, np.float32(0.5), np.float32(0.0))
  np.testing.assert_allclose(gradient[1], 0, atol=1e-6)
  assert gradient[0, -1] < 0 < gradient[2, -1]

  def reversed_loss(z):
    return jnp.sum(osbp_loss(reverse_gradient(z, scale=1.0)))

  np.testing.assert_allclose(
    jax.jit(jax.grad(reversed_loss))(z), -gradient, atol=1e-5
  )


@pytest.mark.slow
def test_extremes_masks_and_half_precision():
  z = np.float32(logits())
  share, eps = np.float32(0.5), np.float32(1e-6)
  some, all_known, last = z.copy(), z.copy(), z.copy()
  some[:, 1] = all_known[:, :-1] = last[:, -1] = -np.inf
  bound = -0.5 * np.log(1e-6) + 1e-3
  for changed in (0 * z, 1e4 * z, -1e4 * z, some, all_known, last):
    values, gradient = value_and_gradient(changed, share, eps)
    assert np.all(np.isfinite(values))
    assert np.all(values <= bound)
    assert np.all(np.isfinite(gradient))
  np.testing.assert_allclose(
    value_and_gradient(some, share, eps)[0],
    value_and_gradient(np.delete(z, 1, 1), share, eps)[0],
    rtol=1e-5,
  )
  values, gradient = computed_in_float32(value_and_gradient, z, share, eps)
  assert values.dtype == jnp.float32
  assert gradient.dtype == jnp.bfloat16


def test_any_share_is_one_program():
  z, shares = np.float32(logits()), np.float32([0.1, 0.5])
  run = jax.jit(jax.vmap(lambda share: osbp_loss(z, unknown_share=share)))
  for got, share in zip(run(shares), shares, strict=True):
    expected, _ = value_and_gradient(z, share, np.float32(1e-6))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_errors_name_the_argument():
  z = np.float32(logits())
  with pytest.raises(ValueError, match=r"unknown_share is 1\.5"):
    osbp_loss(z, unknown_share=1.5)
  with pytest.raises(ValueError, match="epsilon is -1"):
    osbp_loss(z, epsilon=-1)
  with pytest.raises(TypeError, match="target_logits has dtype int32"):
    osbp_loss(np.ones((2, 2), np.int32))
