"""RSC's mask against NumPy's percentiles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import rsc_mask
from tests.laws import trace

WEIGHTS = np.random.default_rng(0).normal(size=(6, 5))
HEAD = np.random.default_rng(1).normal(size=(5, 4))


def classify(features):
  weights, head = (w.astype(features.dtype) for w in (WEIGHTS, HEAD))
  return jnp.tanh(features @ weights) @ head


MASK = jax.jit(lambda *a, **k: rsc_mask(classify, *a, **k))


def sample(batch=9):
  rng = np.random.default_rng(batch)
  return rng.normal(size=(batch, 6)), rng.integers(0, 4, batch)


def oracle(features, labels, feature_drop, batch_drop):
  def probabilities(x):
    z = np.exp(np.tanh(x @ WEIGHTS) @ HEAD)
    return (z / z.sum(1, keepdims=True))[np.arange(len(x)), labels]

  slope = 1 - np.tanh(features @ WEIGHTS) ** 2
  gradients = (slope * HEAD[:, labels].T) @ WEIGHTS.T
  top = np.percentile(gradients, 100 * (1 - feature_drop), axis=1)
  mask = gradients < top[:, None]
  changes = probabilities(features) - probabilities(features * mask)
  spared = changes < np.percentile(changes, 100 * (1 - batch_drop))
  return mask | spared[:, None]


@pytest.mark.parametrize(
  ("feature_drop", "batch_drop"),
  [(1 / 3, 1 / 3), (0.2, 0.7), (0.0, 1.0), (0.45, 0.1)],
)
def test_equals_numpy(feature_drop, batch_drop):
  features, labels = sample()
  expected = oracle(features, labels, feature_drop, batch_drop)
  options = {"feature_drop": feature_drop, "batch_drop": batch_drop}
  mask = MASK(np.float32(features), labels, **options)
  np.testing.assert_array_equal(mask, expected)
  # Rows that do not count change nothing, and are left as they are.
  padded = np.concatenate([features, np.full((2, 6), np.nan)])
  mask = MASK(
    np.float32(padded),
    np.append(labels, [0, 0]),
    where=np.arange(11) < 9,
    **options,
  )
  np.testing.assert_array_equal(
    mask, np.pad(expected, ((0, 2), (0, 0)), constant_values=1)
  )


@pytest.mark.slow
def test_no_recompilation_and_no_gradient():
  features, labels = sample()
  program = jax.jit(
    chex.assert_max_traces(lambda *a, **k: rsc_mask(classify, *a, **k), n=1)
  )
  program(np.float32(features), labels, feature_drop=0.3, batch_drop=0.5)
  program(np.float32(features), labels, feature_drop=0.4, batch_drop=0.2)
  gradient = jax.jit(
    jax.grad(lambda x: jnp.sum(x * rsc_mask(classify, x, labels)))
  )(np.float32(features))
  assert set(np.unique(gradient)) <= {0.0, 1.0}
  half = trace(MASK, features.astype(jnp.bfloat16), labels)
  assert half.dtype == jnp.float32


@pytest.mark.slow
def test_devices_agree():
  features, labels = sample(16)
  features = np.float32(features)
  where = np.arange(16) % 5 > 0
  expected = MASK(features, labels, where=where)
  mapped = jax.vmap(
    lambda x, y, w: rsc_mask(classify, x, y, where=w, axis_name="batch"),
    axis_name="batch",
  )
  shards = [a.reshape(8, 2, *a.shape[1:]) for a in (features, labels, where)]
  np.testing.assert_array_equal(
    jax.jit(mapped)(*shards).reshape(16, 6), expected
  )


def test_errors():
  features, labels = sample()
  with pytest.raises(ValueError, match=r"feature_drop is 1\.5"):
    rsc_mask(classify, np.float32(features), labels, feature_drop=1.5)
  with pytest.raises(ValueError, match=r"labels has shape \(4,\)"):
    rsc_mask(classify, np.float32(features), labels[:4])
