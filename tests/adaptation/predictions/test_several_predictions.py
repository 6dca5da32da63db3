"""Losses on predictions and on the norms of features."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  afn_loss,
  class_balance_loss,
  entropy_loss,
  hafn_loss,
  information_maximization_loss,
  mcc_loss,
)
from tests.laws import computed_in_float32, slopes_agree, trace


def logits(n=7, classes=4):
  return 2 * np.random.default_rng(0).normal(size=(n, classes))


def softmax(z):
  powers = np.exp(z - z.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def confusion(z, temperature):
  """The K x K matrix, as the paper has it."""
  p = softmax(z / temperature)
  weights = 1 + np.exp(np.sum(p * np.log(p + 1e-5), 1))
  matrix = (p * weights[:, None]).T @ p
  matrix /= matrix.sum(1, keepdims=True)
  return (matrix.sum() - np.trace(matrix)) / z.shape[1]


def entropy(p):
  return -np.sum(p * np.log(p), -1)


def test_equal_numpy():
  z = logits()
  p = softmax(z)
  soft = softmax(z / 1.7)
  norms = np.linalg.norm(z, axis=1)
  expected = {
    "entropy": entropy(p),
    "entropy at 1.7": entropy(soft),
    "im": entropy(soft).mean() - 0.6 * entropy(soft.mean(0)),
    "balance": -np.mean(np.log(p.mean(0) + 1e-6)),
    "mcc": [confusion(z, temperature) for temperature in (1.0, 2.5)],
    "afn": np.full(7, 0.09),
    "slope of afn": -2 * 0.3 * z / norms[:, None],
    "hafn": (norms.mean() - 3) ** 2,
  }

  @jax.jit
  def run(z, p):
    return {
      "entropy": entropy_loss(z),
      "entropy at 1.7": entropy_loss(z, temperature=1.7),
      "im": information_maximization_loss(
        z, diversity_weight=0.6, temperature=1.7
      ),
      "balance": class_balance_loss(p),
      "mcc": [mcc_loss(z, temperature=t) for t in (1.0, 2.5)],
      "afn": afn_loss(z, delta=0.3),
      "slope of afn": jax.grad(lambda x: jnp.sum(afn_loss(x, delta=0.3)))(z),
      "hafn": hafn_loss(z, radius=3.0),
    }

  with jax.enable_x64(True):
    got = run(z, p)
  for name, want in expected.items():
    np.testing.assert_allclose(got[name], want, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
  "loss",
  [
    lambda z: jnp.mean(entropy_loss(z)),
    information_maximization_loss,
    class_balance_loss,
  ],
  ids=["entropy", "im", "balance"],
)
def test_gradients(loss):
  slopes_agree(loss, (softmax(logits()),))


COUPLED = {
  "im": information_maximization_loss,
  "balance": class_balance_loss,
  "mcc": mcc_loss,
  "hafn": hafn_loss,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUPLED)
def test_masks_and_extremes(name):
  loss = COUPLED[name]
  z = np.float32(softmax(logits()) if name == "balance" else logits())
  where = np.array([1, 0, 1, 1, 0, 1, 1], bool)

  @jax.jit
  def masked(z, where):
    return jax.value_and_grad(loss)(z, where=where)

  value, gradient = masked(np.where(where[:, None], z, np.nan), where)
  expected, wanted = jax.jit(jax.value_and_grad(loss))(z[where])
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
  gradient = np.asarray(gradient)
  np.testing.assert_allclose(gradient[where], wanted, atol=1e-5)
  np.testing.assert_array_equal(gradient[~where], 0)

  value, gradient = masked(z, np.zeros(7, bool))
  assert value == 0
  assert not np.any(gradient)

  every = np.ones(7, bool)
  excluded = z.copy()
  excluded[:, 0] = excluded[2, :3] = -np.inf
  extremes = [0 * z, 0 * z + z[0]]
  if name != "balance":  # it takes probabilities
    extremes += [1e4 * z, -1e4 * z, excluded]
  for changed in extremes:
    if name != "hafn" or np.all(np.isfinite(changed)):
      value, gradient = masked(changed, every)
      assert np.isfinite(value)
      assert np.all(np.isfinite(gradient))
  value, gradient = masked(z, np.arange(7) == 3)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  assert computed_in_float32(loss, z).dtype == jnp.float32


def test_no_recompilation():
  z = np.float32(logits())

  def of(temperature, weight, delta):
    return (
      entropy_loss(z, temperature=temperature),
      information_maximization_loss(
        z, diversity_weight=weight, temperature=temperature
      ),
      mcc_loss(z, temperature=temperature),
      afn_loss(z, delta=delta),
      hafn_loss(z, radius=delta),
    )

  run = jax.jit(chex.assert_max_traces(of, n=1))
  run(1.0, 1.0, 1.0)
  known = jax.jit(lambda: of(2.0, 0.5, 0.2))
  for got, want in zip(run(2.0, 0.5, 0.2), known(), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_known_values():
  @jax.jit
  def run(z):
    return entropy_loss(z), information_maximization_loss(z), mcc_loss(z)

  sure = np.float32(1e4 * np.eye(4))
  entropies, information, confused = run(0 * sure)
  np.testing.assert_allclose(entropies, np.log(4), rtol=1e-6)
  np.testing.assert_allclose(information, 0, atol=1e-6)
  np.testing.assert_allclose(confused, 0.75, rtol=1e-6)
  entropies, information, confused = run(sure)
  np.testing.assert_array_equal(entropies, 0)
  np.testing.assert_allclose(information, -np.log(4), rtol=1e-6)
  np.testing.assert_allclose(confused, 0, atol=1e-6)
  # All alike is as bad as unsure: no information either way.
  np.testing.assert_allclose(run(sure[[0] * 4])[1], 0, atol=1e-6)


def test_rare_classes_and_norms():
  z = np.float32(logits())
  last = np.arange(4) == 3
  confused = jax.jit(mcc_loss)
  expected = confused(z[:, :3])
  # A class that is excluded everywhere is as if it were not there.
  np.testing.assert_allclose(
    confused(np.where(last, -np.inf, z)), expected, rtol=1e-5
  )
  # A class that no example comes near is wholly confused, not 0 / 0.
  np.testing.assert_allclose(
    confused(np.where(last, np.float32(-1e4), z)),
    0.75 * expected + 0.25,
    rtol=1e-5,
  )
  value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(afn_loss(x))))(
    np.float32([[0.0, 0.0], [3.0, 4.0], [1e4, 1e4]])
  )
  assert value == 3
  np.testing.assert_array_equal(gradient[0], 0)
  np.testing.assert_allclose(gradient[1], [-1.2, -1.6], rtol=1e-6)
  np.testing.assert_allclose(gradient[2], -np.sqrt([2, 2]), rtol=1e-5)


def test_errors_name_the_argument():
  z = np.float32(logits())
  with pytest.raises(ValueError, match="temperature is 0"):
    mcc_loss(z, temperature=0)
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    information_maximization_loss(z, where=np.ones(3, bool))
  with pytest.raises(TypeError, match="target_logits has dtype int32"):
    entropy_loss(np.ones((2, 2), np.int32))
  with pytest.raises(ValueError, match=r"radius has shape \(2,\)"):
    trace(hafn_loss, z, radius=np.ones(2, np.float32))
