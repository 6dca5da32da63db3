"""The domain-adversarial loss, and training through the reversal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import dann_loss
from kdjax.ops import reverse_gradient
from tests.laws import computed_in_float32, slopes_agree

STEP = jax.jit(jax.value_and_grad(dann_loss, (0, 1)))


def logits():
  rng = np.random.default_rng(0)
  return 3 * rng.normal(size=5), 3 * rng.normal(size=8)


def test_equals_numpy():
  source, target = logits()
  expected = np.mean(np.log1p(np.exp(-source))) + np.mean(
    np.log1p(np.exp(target))
  )

  @jax.jit
  def run(source, target):
    columns = source[:, None], target[:, None]
    return dann_loss(source, target), dann_loss(*columns, scaling="mean")

  with jax.enable_x64(True):
    value, mean = run(source, target)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  np.testing.assert_allclose(mean, expected / 2, rtol=1e-12)
  slopes_agree(dann_loss, (source, target))


def test_positive_logits_say_source():
  source, target = np.full(5, 9, np.float32), np.full(8, -9, np.float32)
  assert STEP(source, target)[0] < 1e-3 < STEP(-source, -target)[0]


def test_large_logits_and_half_precision():
  extreme = np.float32([1e4, -1e4])
  value, gradients = STEP(extreme, extreme)
  assert value == pytest.approx(1e4)
  assert np.all(np.isfinite(gradients))
  source, target = map(np.float32, logits())
  value, _ = computed_in_float32(STEP, source, target)
  assert value.dtype == jnp.float32


def test_masks():
  source, target = map(np.float32, logits())
  where = np.array([True, False, True, True, False])
  spoiled = np.where(where, source, np.nan)
  everything = np.ones(8, bool)
  value, (gradient, _) = STEP(
    spoiled, target, where_source=where, where_target=everything
  )
  expected, (wanted, _) = STEP(source[where], target)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  gradient = np.asarray(gradient)
  np.testing.assert_allclose(gradient[where], wanted, rtol=1e-6)
  np.testing.assert_array_equal(gradient[~where], 0)
  value, gradients = STEP(
    source,
    target,
    where_source=np.zeros(5, bool),
    where_target=np.zeros(8, bool),
  )
  assert value == 0
  assert not any(np.any(g) for g in gradients)


def test_reversal_turns_the_features_only():
  features = np.float32([[1.0, 2.0], [3.0, -1.0]])
  discriminator = np.float32([0.5, -0.3])

  def loss(discriminator, features, scale):
    if scale is not None:
      features = reverse_gradient(features, scale)
    source, target = features @ discriminator
    return dann_loss(source[None], target[None])

  @jax.jit
  def gradients(*arguments):
    gradient = jax.grad(loss, (0, 1))
    return gradient(*arguments, None), gradient(*arguments, 0.25)

  plain, reversed_ = jax.device_get(gradients(discriminator, features))
  np.testing.assert_allclose(reversed_[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(reversed_[1], -0.25 * plain[1], rtol=1e-6)


def test_errors_name_the_argument():
  source, target = map(np.float32, logits())
  with pytest.raises(ValueError, match="scaling is 'sum'"):
    dann_loss(source, target, scaling="sum")
  with pytest.raises(ValueError, match=r"source_domain_logits has shape"):
    dann_loss(np.zeros((3, 2), np.float32), target)
  with pytest.raises(ValueError, match=r"where_target has shape \(5,\)"):
    dann_loss(source, target, where_target=np.ones(5, bool))
