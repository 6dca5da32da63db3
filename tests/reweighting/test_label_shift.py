"""Label shift from a confusion matrix: BBSE and RLLS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.reweighting import bbse_weights


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def shifted(n, prior, seed):
  """Labels of a prior, and what a noisy classifier says of them."""
  rng = np.random.default_rng(seed)
  labels = rng.choice(3, n, p=prior)
  return labels, 2 * np.eye(3)[labels] + rng.normal(size=(n, 3))


@pytest.mark.parametrize("soft", [False, True])
def test_bbse_equals_numpy(soft):
  labels, source = shifted(200, [0.4, 0.3, 0.3], 0)
  _, target = shifted(150, [0.2, 0.6, 0.2], 1)
  rows = (
    softmax(x) if soft else np.eye(3)[x.argmax(1)] for x in (source, target)
  )
  of_source, of_target = rows
  joint = of_source.T @ np.eye(3)[labels] / 200
  form = jax.jit(functools.partial(bbse_weights, soft=soft))
  for ridge in (0.0, 0.02):
    gram = joint.T @ joint + ridge * np.eye(3)
    ratio = np.linalg.solve(gram, joint.T @ of_target.mean(0) + ridge)
    expected = np.maximum(ratio, 0)[labels]
    with jax.enable_x64(True):
      weights = form(source, target, jnp.asarray(labels), ridge=ridge)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-9)
    if not ridge:
      np.testing.assert_allclose(expected.mean(), 1, rtol=1e-12)


def test_bbse_recovers_the_shift_and_survives_a_silent_class():
  labels, source = shifted(4000, [0.4, 0.3, 0.3], 0)
  _, target = shifted(4000, [0.2, 0.6, 0.2], 1)
  run = jax.jit(bbse_weights)
  source, target = np.float32(source), np.float32(target)
  weights = np.asarray(run(source, target, labels))
  classes = [weights[np.argmax(labels == c)] for c in range(3)]
  np.testing.assert_allclose(classes, [0.5, 2.0, 2 / 3], atol=0.15)
  never = np.where(np.arange(3) == 1, -np.inf, 1.0).astype(np.float32)
  weights = run(source + never, target + never, labels)
  assert np.all(np.isfinite(weights))
  np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-3)
  nothing = run(source, target, labels, where_target=np.zeros(4000, bool))
  np.testing.assert_allclose(nothing, 1)
