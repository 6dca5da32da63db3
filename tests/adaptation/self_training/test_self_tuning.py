"""Self-tuning: a pseudo-label is a group of keys to be near to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  SelfTuningQueue,
  mme_loss,
  self_tuning_init,
  self_tuning_loss,
  self_tuning_update,
  sharpen,
)
from tests import laws

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pgc_oracle(query, key, label, bank, temperature):
  size = bank.shape[1]
  logits = np.concatenate([[query @ key], bank.reshape(-1, key.size) @ query])
  log_p = np.log(softmax(logits / temperature))
  start = 1 + label * size
  positives = np.append(log_p[0], log_p[start : start + size])
  return np.mean(np.log(1 / (size + 1)) - positives)


@pytest.mark.slow
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
