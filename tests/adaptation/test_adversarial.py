"""The domain-adversarial loss, and training through the reversal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import dann_loss
from kdjax.ops import reverse_gradient


def logits():
  rng = np.random.default_rng(0)
  return 3 * rng.normal(size=5), 3 * rng.normal(size=8)


def test_equals_numpy():
  source, target = logits()
  expected = np.mean(np.log1p(np.exp(-source))) + np.mean(
    np.log1p(np.exp(target))
  )
  with jax.enable_x64(True):
    np.testing.assert_allclose(dann_loss(source, target), expected, rtol=1e-12)
    np.testing.assert_allclose(
      dann_loss(source[:, None], target[:, None], scaling="mean"),
      expected / 2,
      rtol=1e-12,
    )
    check_grads(dann_loss, tuple(map(jnp.asarray, (source, target))), order=1)


def test_positive_logits_say_source():
  right = dann_loss(jnp.full(2, 9.0), jnp.full(3, -9.0))
  wrong = dann_loss(jnp.full(2, -9.0), jnp.full(3, 9.0))
  assert right < 1e-3 < wrong


def test_large_logits_and_half_precision():
  extreme = jnp.array([1e4, -1e4])
  value, gradients = jax.value_and_grad(dann_loss, (0, 1))(extreme, extreme)
  assert value == pytest.approx(1e4)
  assert np.all(np.isfinite(gradients))
  source, target = (jnp.asarray(x, jnp.bfloat16) for x in logits())
  value = dann_loss(source, target)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, dann_loss(*logits()), rtol=0.02)


def test_masks():
  source, target = map(jnp.float32, logits())
  where = jnp.array([True, False, True, True, False])
  spoiled = jnp.where(where, source, jnp.nan)

  def masked(x):
    return dann_loss(x, target, where_source=where)

  value, gradient = jax.value_and_grad(masked)(spoiled)
  expected, wanted = jax.value_and_grad(lambda x: dann_loss(x[where], target))(
    source
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
  value, gradients = jax.value_and_grad(dann_loss, (0, 1))(
    source,
    target,
    where_source=jnp.zeros(5, bool),
    where_target=jnp.zeros(8, bool),
  )
  assert value == 0
  assert not any(np.any(g) for g in gradients)


def test_reversal_turns_the_features_only():
  features = jnp.array([[1.0, 2.0], [3.0, -1.0]])
  discriminator = jnp.array([0.5, -0.3])

  def loss(discriminator, features, scale):
    if scale is not None:
      features = reverse_gradient(features, scale)
    source, target = features @ discriminator
    return dann_loss(source[None], target[None])

  gradient = jax.jit(jax.grad(loss, (0, 1)))
  plain = jax.grad(loss, (0, 1))(discriminator, features, None)
  reversed_ = gradient(discriminator, features, 0.25)
  np.testing.assert_allclose(reversed_[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(reversed_[1], -0.25 * plain[1], rtol=1e-6)


def test_errors_name_the_argument():
  source, target = map(jnp.float32, logits())
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    dann_loss(source, target, scaling="sum")
  with pytest.raises(ValueError, match=r"source_domain_logits has shape"):
    dann_loss(jnp.zeros((3, 2)), target)
  with pytest.raises(ValueError, match=r"where_target has shape \(5,\)"):
    dann_loss(source, target, where_target=jnp.ones(5, bool))
