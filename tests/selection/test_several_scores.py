"""Validators without target labels: values, directions, traps."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax import selection
from kdjax.selection import (
  SCORES,
  bnm_score,
  dev_score,
  entropy_score,
  im_score,
  importance_weighted_score,
  snd_score,
)
from tests.laws import trace

rng = np.random.default_rng(0)
LOGITS = 2 * rng.normal(size=(16, 5)).astype(np.float32)
LOSSES = rng.exponential(size=16).astype(np.float32)
WEIGHTS = rng.gamma(2.0, 0.5, size=16).astype(np.float32)
# Uneven over eight devices.
WHERE = np.ones(16, bool)
WHERE[[0, 1, 4, 15]] = False
OF_LOGITS = (entropy_score, im_score, bnm_score, snd_score)
OF_LOSSES = (importance_weighted_score, dev_score)
DEV = jax.jit(dev_score)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def entropy(p):
  return -np.sum(p * np.log(np.where(p > 0, p, 1)), -1)


def snd_oracle(features, temperature):
  z = np.float64(features)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  similarities = z @ z.T / temperature
  n = len(z)
  off = similarities[~np.eye(n, dtype=bool)].reshape(n, n - 1)
  return entropy(softmax(off)).mean()


def dev_oracle(losses, weights):
  products = np.float64(weights) * losses
  eta = -np.cov(products, weights)[0, 1] / np.var(weights, ddof=1)
  return -(products.mean() + eta * weights.mean() - eta)


def oracle(score, first, second=None):
  p = softmax(first)
  if score is entropy_score:
    return -entropy(p).mean()
  if score is im_score:
    return entropy(p.mean(0)) - entropy(p).mean()
  if score is bnm_score:
    return np.linalg.svd(p, compute_uv=False).sum() / len(p)
  if score is snd_score:
    return snd_oracle(first, 0.05)
  if score is dev_score:
    return dev_oracle(first, second)
  return -np.mean(first * second)


def inputs(score):
  return (LOGITS,) if score in OF_LOGITS else (LOSSES, WEIGHTS)


@pytest.mark.parametrize("score", OF_LOGITS + OF_LOSSES)
def test_equals_numpy_masked_and_on_eight_devices(score):
  arrays = inputs(score)
  run = jax.jit(score)
  everything = np.ones(16, bool)
  np.testing.assert_allclose(
    run(*arrays, where=everything), oracle(score, *arrays), rtol=2e-5
  )
  kept = oracle(score, *(x[WHERE] for x in arrays))
  spoiled = [
    np.where(WHERE.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan) for x in arrays
  ]
  np.testing.assert_allclose(run(*spoiled, where=WHERE), kept, rtol=2e-5)
  assert run(*arrays, where=np.zeros(16, bool)) == 0
  assert np.isfinite(run(*arrays, where=np.arange(16) == 3))
  for stretch in (0.0, 1e4):
    stretched = [np.float32(stretch) * x for x in arrays]
    assert np.isfinite(run(*stretched, where=everything))
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    lambda where, *x: score(*x, where=where, axis_name="batch"),
    mesh=mesh,
    in_specs=(P("batch"),) * (1 + len(arrays)),
    out_specs=P(),
  )
  np.testing.assert_allclose(jax.jit(sharded)(WHERE, *arrays), kept, rtol=2e-5)


def test_higher_is_better_and_collapse_is_seen():
  classes = np.arange(16) % 4
  sure = np.float32(8 * np.eye(4)[classes])
  unsure, collapsed = sure / 8, np.float32(8 * np.eye(4)[np.zeros(16, int)])

  @jax.jit
  def by_score(logits):
    return [score(logits) for score in (entropy_score, im_score, bnm_score)]

  of_sure, of_unsure, of_collapsed = map(by_score, (sure, unsure, collapsed))
  for high, low in zip(of_sure, of_unsure, strict=True):
    assert high > low
  for high, low in zip(of_sure[1:], of_collapsed[1:], strict=True):
    assert high > low
  # The trap that the docstring names.
  assert of_collapsed[0] >= of_sure[0]
  p = np.float32(softmax(sure))
  spread = np.float32(softmax(rng.normal(size=(16, 4))))
  snd = jax.jit(snd_score)
  assert snd(p, temperature=0.05) < np.log(15)
  assert snd(spread, temperature=1e3) > snd(spread, temperature=0.05)
  of_losses = jax.jit(lambda *x: [score(*x) for score in OF_LOSSES])
  for high, low in zip(
    of_losses(LOSSES, WEIGHTS), of_losses(LOSSES + 1, WEIGHTS), strict=True
  ):
    assert high > low


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 100])
def test_snd_in_chunks(chunk_size):
  value = jax.jit(snd_score, static_argnames="chunk_size")(
    LOGITS, temperature=0.3, chunk_size=chunk_size
  )
  np.testing.assert_allclose(value, snd_oracle(LOGITS, 0.3), rtol=1e-5)


@pytest.mark.slow
def test_snd_of_few_or_equal_rows():
  step = jax.jit(jax.value_and_grad(snd_score))
  assert step(LOGITS[:1])[0] == step(LOGITS[:2])[0] == 0
  equal, _ = step(np.ones((9, 3), np.float32))
  np.testing.assert_allclose(equal, np.log(8), rtol=1e-6)
  _, gradient = step(np.zeros((9, 3), np.float32))
  assert np.all(np.isfinite(gradient))


def test_weights_that_do_not_vary():
  for weight in (1.0, 0.7, 1 / 3):
    weights = np.full(16, weight, np.float32)
    np.testing.assert_allclose(
      DEV(LOSSES, weights), -weight * LOSSES.mean(), rtol=1e-5
    )
  one = DEV(LOSSES[:1], WEIGHTS[:1])
  np.testing.assert_allclose(one, -LOSSES[0] * WEIGHTS[0], rtol=1e-6)


def test_dev_is_less_noisy_than_importance_weighting():
  draw = np.random.default_rng(1)
  weights = draw.gamma(0.5, 2.0, size=(300, 200)).astype(np.float32)
  losses = 0.3 + 0.1 * draw.normal(size=(300, 200)).astype(np.float32)
  dev, weighted = (
    jax.jit(jax.vmap(score))(losses, weights) for score in OF_LOSSES[::-1]
  )
  assert np.std(dev) < 0.5 * np.std(weighted)
  np.testing.assert_allclose(np.mean(dev), -0.3, atol=0.02)


def test_clipped_and_normalized_weights():
  exploded = WEIGHTS.copy()
  exploded[3] = 1e6
  clipped = np.minimum(exploded, 3.0)
  weighted = jax.jit(importance_weighted_score, static_argnames="normalize")
  np.testing.assert_allclose(
    DEV(LOSSES, exploded, max_weight=3.0),
    dev_oracle(LOSSES, clipped),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    weighted(LOSSES, 5 * WEIGHTS, normalize=True),
    -np.sum(LOSSES * WEIGHTS) / np.sum(WEIGHTS),
    rtol=1e-5,
  )
  infinite = np.where(np.arange(16) == 2, np.inf, LOSSES)
  silenced = np.where(np.arange(16) == 2, 0, WEIGHTS)
  assert np.isfinite(weighted(infinite, silenced))


def test_each_score_is_explained():
  for name, text in SCORES.items():
    function = text.split("(")[0]
    assert callable(getattr(selection, function))
    assert function.startswith(name)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"weights has shape \(3,\); expected"):
    dev_score(LOSSES, WEIGHTS[:3])
  with pytest.raises(ValueError, match="max_weight is 0"):
    dev_score(LOSSES, WEIGHTS, max_weight=0)
  with pytest.raises(ValueError, match="temperature is -1"):
    snd_score(LOGITS, temperature=-1.0)
  with pytest.raises(ValueError, match="chunk_size is 0"):
    trace(snd_score, LOGITS, chunk_size=0)
  with pytest.raises(TypeError, match="target_logits has dtype int32"):
    im_score(np.ones((2, 2), np.int32))
