"""Margin disparity discrepancy (MDD)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  adda_loss,
  classifier_discrepancy,
  mdd_loss,
  mdd_regression_loss,
)
from tests.laws import computed_in_float32, slopes_agree


def arrays(n_source=5, n_target=4, classes=3):
  rng = np.random.default_rng(0)
  sizes = (n_source, n_source, n_target, n_target)
  return [2 * rng.normal(size=(n, classes)) for n in sizes]


def softmax(z):
  powers = np.exp(z - z.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def margin_disparity(s, s_adversarial, t, t_adversarial, margin, shift):
  own_s = softmax(s_adversarial)[np.arange(len(s)), s.argmax(1)]
  own_t = softmax(t_adversarial)[np.arange(len(t)), t.argmax(1)]
  return (
    -margin * np.log(own_s).mean()
    - np.log(np.minimum(1 - own_t + shift, 1)).mean()
  )


def test_equal_numpy():
  data = arrays()
  p, q = softmax(data[0]), softmax(data[1])

  @jax.jit
  def run(data, p, q):
    return (
      classifier_discrepancy(p, q),
      mdd_loss(*data, margin=4.0, epsilon=1e-6),
      mdd_loss(*data, margin=1.5, epsilon=0.0),
      mdd_regression_loss(*data, margin=2.0),
      adda_loss(data[0][:, 0]),
    )

  with jax.enable_x64(True):
    values = run(data, p, q)
  expected = (
    np.abs(p - q).mean(1),
    margin_disparity(*data, 4.0, 1e-6),
    margin_disparity(*data, 1.5, 0.0),
    2 * np.abs(data[1] - data[0]).mean() - np.abs(data[3] - data[2]).mean(),
    np.log1p(np.exp(-data[0][:, 0])),
  )
  for got, want in zip(values, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.slow
def test_only_the_adversarial_head_has_gradients():
  data = list(map(np.float32, arrays()))

  @jax.jit
  def run(data):
    return [
      jax.grad(loss, (0, 1, 2, 3))(*data)
      for loss in (mdd_loss, mdd_regression_loss)
    ]

  for gradients in run(data):
    assert [bool(np.any(g)) for g in gradients] == [False, True, False, True]
  wide = arrays()
  slopes_agree(
    lambda s, t: mdd_loss(wide[0], s, wide[2], t, margin=2.0), wide[1::2]
  )


@pytest.mark.slow
@pytest.mark.parametrize("loss", [mdd_loss, mdd_regression_loss])
def test_masks_and_extremes(loss):
  data = list(map(np.float32, arrays()))

  @jax.jit
  def run(data, where_source, where_target):
    return jax.value_and_grad(
      lambda d: loss(*d, where_source=where_source, where_target=where_target)
    )(data)

  where_s = np.array([1, 0, 1, 1, 0], bool)
  where_t = np.array([0, 1, 1, 1], bool)
  masks = [where_s, where_s, where_t, where_t]
  spoiled = [
    np.where(m[:, None], x, np.nan) for x, m in zip(data, masks, strict=True)
  ]
  value, gradients = run(spoiled, where_s, where_t)
  kept = [x[m] for x, m in zip(data, masks, strict=True)]
  np.testing.assert_allclose(value, jax.jit(loss)(*kept), rtol=1e-5)
  for g, m in zip(gradients, masks, strict=True):
    assert np.all(np.isfinite(g))
    np.testing.assert_array_equal(np.asarray(g)[~m], 0)
  value, gradients = run(data, np.zeros(5, bool), np.zeros(4, bool))
  assert value == 0
  assert not any(np.any(g) for g in gradients)
  every = np.ones(5, bool), np.ones(4, bool)
  excluded = [np.where(np.arange(3) == 1, -np.inf, x) for x in data]
  changes = [[1e4 * x for x in data], [0 * x for x in data]]
  for changed in changes + [excluded] * (loss is mdd_loss):
    value, gradients = run(changed, *every)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
  assert computed_in_float32(loss, *data).dtype == jnp.float32


def test_margin_disparity_keeps_its_digits():
  """1 - p of a sure head is what the other classes leave, not 1 - 1."""
  agree = np.float32([[30.0, 0.0, 0.0]])

  @jax.jit
  def run(agree):
    two = agree[:, :2]
    return mdd_loss(*[agree] * 4, epsilon=0.0), mdd_loss(*[two] * 4)

  value, two = run(agree)
  np.testing.assert_allclose(value, 30 - np.log(2), rtol=1e-6)
  np.testing.assert_allclose(two, -np.log(1e-6), rtol=1e-5)
