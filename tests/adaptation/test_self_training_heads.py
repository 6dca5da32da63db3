"""MixMatch, minimax entropy, CDAC, DST, confusion consistency, self-tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import SelfTuningQueue
from kdjax.adaptation import cdac_loss
from kdjax.adaptation import confusion_consistency_loss
from kdjax.adaptation import dst_loss
from kdjax.adaptation import guess_labels
from kdjax.adaptation import mdd_loss
from kdjax.adaptation import mixmatch_loss
from kdjax.adaptation import mme_loss
from kdjax.adaptation import prototype_logits
from kdjax.adaptation import self_tuning_init
from kdjax.adaptation import self_tuning_loss
from kdjax.adaptation import self_tuning_update
from kdjax.adaptation import sharpen
from tests import laws

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))
CASES = {
  "cc": laws.Case(
    confusion_consistency_loss,
    (A, B),
    {"temperature": 1.5, "threshold": 0.4},
    coupled=True,
  ),
}


# Its weights get no gradient, so differences show another slope; the recorded
# case has the gradient.
LAWS = [
  x for x in laws.LAWS if x is not laws.gradients_equal_finite_differences
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  law(CASES[name])


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_mixmatch():
  p = softmax(A)
  power = p ** (1 / 0.4)
  expected = power / power.sum(1, keepdims=True)
  views = np.stack([A, B])
  mean = softmax(views).mean(0) ** 2

  @jax.jit
  def run(p, views):
    guessed = guess_labels(views)
    sharpened = sharpen(p, temperature=0.4)
    return sharpened, guessed, mixmatch_loss(views[0], guessed)

  sharpened, guessed, losses = jax.device_get(run(np.float32(p), views))
  np.testing.assert_allclose(sharpened, expected, rtol=1e-4)
  np.testing.assert_allclose(
    guessed, mean / mean.sum(1, keepdims=True), rtol=1e-4
  )
  np.testing.assert_allclose(
    losses, np.mean((p - guessed) ** 2, 1), rtol=1e-4, atol=1e-7
  )
  of_first = jax.jit(jax.value_and_grad(lambda x: jnp.sum(sharpen(x)[..., 0])))
  zeros = np.zeros((3, 3), np.float32)
  for x in (zeros, np.eye(3, dtype=np.float32), zeros + np.float32(1e-30)):
    assert np.all(np.isfinite(of_first(x)[1]))
  assert not np.any(jax.jit(sharpen)(zeros))


def test_mme_plays_prototypes_against_features():
  features, prototypes = A, B[:3]
  z = unit(np.float64(A)) @ np.float64(B[:3]).T / 0.5

  @jax.jit
  def run(features, prototypes):
    arguments = features, prototypes
    return (
      prototype_logits(*arguments, temperature=0.5),
      mme_loss(*arguments, temperature=0.5),
    )

  logits, losses = run(features, prototypes)
  np.testing.assert_allclose(logits, z, rtol=1e-4, atol=1e-5)
  p = softmax(z)
  np.testing.assert_allclose(losses, np.sum(p * np.log(p), 1), rtol=1e-4)

  def loss(f, w, reversal):
    return jnp.sum(mme_loss(f, w, temperature=0.5, reversal=reversal))

  gradient = jax.jit(jax.grad(loss, (0, 1)))
  forward, reverse = (
    jax.device_get(gradient(features, prototypes, r)) for r in (-1.0, 0.5)
  )
  np.testing.assert_allclose(reverse[0], -0.5 * forward[0], rtol=1e-5)
  np.testing.assert_allclose(reverse[1], forward[1], rtol=1e-5)
  for stretch in np.float32([0.0, 1e4]):
    for leaf in gradient(stretch * features, prototypes, 1.0):
      assert np.all(np.isfinite(leaf))


def test_cdac():
  features = rng.normal(size=(16, 8)).astype(np.float32)
  features[5] = 2 * features[3]
  features[9] = features[3]
  largest = np.sort(np.argsort(-features, 1)[:, :3], 1)
  alike = np.all(largest[:, None] == largest[None], -1)
  assert alike.sum() > 16
  together = softmax(A) @ softmax(B).T
  terms = np.where(alike, np.log(together + 1e-7), np.log(1 - together + 1e-7))
  run = jax.jit(cdac_loss, static_argnames="top")
  np.testing.assert_allclose(
    run(features, A, B, top=3), terms.mean(), rtol=1e-5
  )
  where = np.arange(16) % 3 > 0
  spoiled = [np.where(where[:, None], x, np.nan) for x in (features, A, B)]
  np.testing.assert_allclose(
    run(*spoiled, top=3, where=where), terms[where][:, where].mean(), rtol=1e-5
  )
  assert run(features, A, B, top=3, where=np.zeros(16, bool)) == 0
  split = [x.reshape(8, 2, -1) for x in (features, A, B)]
  devices = jax.pmap(
    lambda f, a, b: cdac_loss(f, a, b, top=3, axis_name="batch"), "batch"
  )
  np.testing.assert_allclose(devices(*split), terms.mean(), rtol=1e-5)
  gradient = jax.jit(
    jax.grad(lambda a, b: cdac_loss(features, a, b, top=3), (0, 1))
  )
  for stretch in np.float32([0.0, 1e4]):
    for leaf in gradient(stretch * A, stretch * B):
      assert np.all(np.isfinite(leaf))
  with pytest.raises(ValueError, match="top is 9; expected at most 8"):
    cdac_loss(features, A, B, top=9)


def test_dst_is_mdd_of_one_domain():
  arrays = (A, B, A[::-1], B[3:].repeat(2, 0)[:16])

  @jax.jit
  def both(*arrays):
    return dst_loss(*arrays, eta=1.5), mdd_loss(*arrays, margin=1.5)

  value, expected = both(*arrays)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="unlabeled_logits has shape"):
    dst_loss(A, B, A[:, :4], B[:, :4])


def confusion(p, kept):
  entropy = -np.sum(p * np.log(p + 1e-5), -1)
  weighted = p * (kept * (1 + np.exp(-entropy)))[:, None]
  matrix = weighted.T @ p
  return matrix / matrix.sum(0)


def test_confusion_consistency_equals_numpy():
  p, q = softmax(A / 1.5), softmax(B / 1.5)
  kept = q.max(1) >= 0.5
  assert 0 < kept.sum() < 16
  gap = confusion(p, kept) - confusion(q, kept)
  np.testing.assert_allclose(
    jax.jit(confusion_consistency_loss)(A, B, temperature=1.5, threshold=0.5),
    kept.mean() * np.sum(gap**2) / 5,
    rtol=1e-4,
  )


def pgc_oracle(query, key, label, bank, temperature):
  size = bank.shape[1]
  logits = np.concatenate([[query @ key], bank.reshape(-1, key.size) @ query])
  log_p = np.log(softmax(logits / temperature))
  start = 1 + label * size
  positives = np.append(log_p[0], log_p[start : start + size])
  return np.mean(np.log(1 / (size + 1)) - positives)


def test_self_tuning():
  queries, keys = unit(A), unit(B)
  labels = rng.integers(0, 3, 16)
  start = jax.jit(
    functools.partial(self_tuning_init, num_classes=3, dims=5, size=4)
  )
  queue = start(jax.random.key(0))
  np.testing.assert_allclose(np.linalg.norm(queue.keys, axis=-1), 1, rtol=1e-6)
  bank = np.float64(queue.keys)
  run = jax.jit(self_tuning_loss)
  expected = [
    pgc_oracle(*x, bank, 0.2) for x in zip(queries, keys, labels, strict=True)
  ]
  values = run(queries, keys, labels, queue, temperature=0.2)
  np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
  position = np.zeros(3, int)
  for key, label in zip(keys, labels, strict=True):
    bank[label, position[label]] = key
    position[label] = (position[label] + 1) % 4
  update = jax.jit(self_tuning_update)
  new = update(queue, keys, labels)
  np.testing.assert_allclose(new.keys, bank, rtol=1e-5)
  np.testing.assert_array_equal(new.position, position)
  left = update(queue, keys, np.full(16, -1))
  np.testing.assert_array_equal(left.keys, queue.keys)
  gradients = jax.jit(
    jax.grad(
      lambda q, k, bank: jnp.sum(
        self_tuning_loss(q, k, labels, SelfTuningQueue(bank, queue.position))
      ),
      (0, 1, 2),
    )
  )(queries, keys, queue.keys)
  assert np.any(gradients[0])
  assert not np.any(gradients[1])
  assert not np.any(gradients[2])


def test_errors_name_the_argument():
  queue = SelfTuningQueue(np.zeros((3, 32, 4), np.float32), np.zeros(3, int))
  with pytest.raises(ValueError, match="queue has keys of width 4; expected 5"):
    laws.trace(self_tuning_loss, A, B, np.zeros(16, int), queue)
  with pytest.raises(ValueError, match="num_classes is 0"):
    self_tuning_init(jax.random.key(0), num_classes=0, dims=4)
  with pytest.raises(ValueError, match="temperature is 0"):
    sharpen(np.ones((2, 2), np.float32), temperature=0.0)
  with pytest.raises(ValueError, match=r"prototypes has shape \(3, 4\)"):
    laws.trace(mme_loss, A, np.ones((3, 4), np.float32))
