"""Regressive domain adaptation (RegDA) of keypoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  dael_loss,
  keypoint_loss,
  keypoint_maps,
  self_information,
)
from tests import laws

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(16, 4, 3, 2)).astype(np.float32)
TARGETS = RNG.uniform(size=SCORES.shape).astype(np.float32)
STRONG, WEAK = 2 * RNG.normal(size=(2, 16, 3, 4)).astype(np.float32)


def experts_last(strong, weak, **options):
  """The laws have examples on the first axis."""
  parts = (jnp.swapaxes(x, 0, 1) for x in (strong, weak))
  return dael_loss(*parts, **options)


CASES = {
  "keypoints": laws.Case(keypoint_loss, (SCORES, TARGETS), {"epsilon": 0.01}),
  "dael": laws.Case(
    experts_last, (STRONG, WEAK), {"threshold": 0.5, "epsilon": 1e-5}
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def softmax(z, axis=-1):
  powers = np.exp(np.float64(z) - np.max(z, axis, keepdims=True))
  return powers / powers.sum(axis, keepdims=True)


def bell(height, width, row, column, sigma):
  """A Gaussian, cut off at 3 sigma, one position at a time."""
  values = np.zeros((height, width))
  for i in range(height):
    for j in range(width):
      di, dj = i - row, j - column
      if max(abs(di), abs(dj)) <= 3 * sigma:
        values[i, j] = np.exp(-(di**2 + dj**2) / (2 * sigma**2))
  return values


def test_keypoint_maps_equal_numpy():
  scores = RNG.normal(size=(3, 9, 8, 3))
  scores[0, ..., 0] -= 10  # Its largest score is below 0 and still the place.
  scores[1, ..., 1] = scores[1, ..., 0]  # At the same place.
  run = jax.jit(keypoint_maps)
  with jax.enable_x64(True):
    for sigma in (2.0, 0.7):
      true, false = run(scores, sigma=sigma)
      for i in range(3):
        expected = [
          bell(9, 8, *divmod(np.argmax(scores[i, ..., k]), 8), sigma)
          for k in range(3)
        ]
        np.testing.assert_allclose(
          true[i], np.stack(expected, -1), rtol=1e-12, atol=0
        )
        for k in range(3):
          others = sum(expected[:k] + expected[k + 1 :])
          np.testing.assert_allclose(
            false[i, ..., k], np.minimum(others, 1), atol=1e-12
          )
    gradient = jax.jit(jax.grad(lambda y: jnp.sum(keypoint_maps(y).true)))(
      scores
    )
  assert not np.any(gradient)


def test_keypoint_loss_equals_numpy():
  visible = RNG.uniform(size=(16, 2)) < 0.7
  logarithms = np.log(softmax(SCORES.reshape(16, 12, 2), 1))

  @jax.jit
  def run(scores, targets, eps):
    return (
      keypoint_loss(scores, targets, epsilon=eps),
      keypoint_loss(scores, targets, epsilon=eps, visible=visible),
    )

  sparse = np.where(TARGETS > 0.8, TARGETS, 0)
  sparse[0] = 0  # What no heat map has: nothing to learn, or all alike.
  for targets, eps in ((TARGETS, 0.0), (sparse, 0.0), (sparse, 1e-3)):
    with jax.enable_x64(True):
      plain, some = run(np.float64(SCORES), np.float64(targets), eps)
    t = np.float64(targets.reshape(16, 12, 2)) + eps
    whole = t.sum(1, keepdims=True)
    t = np.divide(t, whole, out=np.zeros_like(t), where=whole > 0)
    log_t = np.log(t, out=np.zeros_like(t), where=t > 0)
    losses = np.sum(t * (log_t - logarithms), 1)
    np.testing.assert_allclose(plain, losses.mean(1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
      some, (losses * visible).mean(1), rtol=1e-6, atol=1e-7
    )


def test_a_regressor_that_follows_its_map_costs_nothing():
  maps = jax.jit(keypoint_maps)(10 * SCORES)
  cost = jax.jit(keypoint_loss)(
    jnp.log(maps.true + 1e-7), maps.true, epsilon=1e-7
  )
  np.testing.assert_allclose(cost, 0, atol=1e-6)
  wrong = jax.jit(keypoint_loss)(
    jnp.log(maps.true + 1e-7), maps.false, epsilon=1e-7
  )
  assert np.all(wrong >= 0)
  assert np.mean(wrong) > 0.1


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="logits has 1 class"):
    self_information(SCORES[..., :1])
  with pytest.raises(ValueError, match="sigma is 0"):
    keypoint_maps(SCORES, sigma=0)
  with pytest.raises(ValueError, match="epsilon is -1"):
    keypoint_loss(SCORES, TARGETS, epsilon=-1)
  with pytest.raises(ValueError, match=r"targets has shape \(16, 4, 3, 1\)"):
    keypoint_loss(SCORES, TARGETS[..., :1])
  with pytest.raises(ValueError, match=r"visible has shape \(16,\)"):
    keypoint_loss(SCORES, TARGETS, visible=np.ones(16, bool))
  with pytest.raises(ValueError, match=r"weak_logits has shape \(16, 2, 4\)"):
    dael_loss(STRONG, WEAK[:, :2])
  with pytest.raises(ValueError, match="threshold is 2"):
    laws.trace(dael_loss, STRONG, WEAK, threshold=2)
