"""Bi-Tuning's losses in NumPy, and its queue as a loop would fill it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.finetuning import (
  KeyQueue,
  categorical_contrastive_loss,
  contrastive_cross_entropy_loss,
  homogeneous_directions,
  key_queue_init,
  key_queue_update,
)
from tests import laws

RNG = np.random.default_rng(0)
CLASSES, SIZE, DIMS = 3, 4, 5


def directions(*shape):
  x = RNG.normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


LABELS = RNG.permutation(np.arange(16) % CLASSES)
QUERIES, KEYS = directions(16, DIMS), directions(16, DIMS)
QUEUE, HEAD = directions(CLASSES, SIZE, DIMS), directions(CLASSES, DIMS)
ENQUEUE = jax.jit(key_queue_update)


def classifier_side(features, unused, labels, queue, head, **options):
  del unused
  return contrastive_cross_entropy_loss(
    features, labels, queue, head, **options
  )


CASES = {
  "projector": laws.Case(
    categorical_contrastive_loss,
    (QUERIES, KEYS, LABELS, QUEUE),
    {"temperature": 0.3},
    shared=(3,),
  ),
  "classifier": laws.Case(
    classifier_side,
    (QUERIES, KEYS, LABELS, QUEUE, HEAD),
    {"temperature": 0.3},
    shared=(3, 4),
    unused=(1,),
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def oracle(own, anchor, label, temperature):
  scores = np.float64(QUEUE) @ np.float64(anchor) / temperature
  every = np.concatenate([[own / temperature], scores.ravel()])
  log_p = every - np.log(np.exp(every).sum())
  uniform = np.zeros((CLASSES, SIZE))
  uniform[label] = 1
  uniform = np.concatenate([[1.0], uniform.ravel()]) / (SIZE + 1)
  kept = uniform > 0
  return np.sum(uniform[kept] * (np.log(uniform[kept]) - log_p[kept]))


@jax.jit
def both_losses(temperature):
  return (
    categorical_contrastive_loss(
      QUERIES, KEYS, LABELS, QUEUE, temperature=temperature
    ),
    contrastive_cross_entropy_loss(
      QUERIES, LABELS, QUEUE, HEAD, temperature=temperature
    ),
  )


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_losses_equal_numpy(temperature):
  projector, classifier = [], []
  for x, k, y in zip(QUERIES, KEYS, LABELS, strict=True):
    projector.append(oracle(np.float64(x) @ k, x, y, temperature))
    classifier.append(oracle(np.float64(x) @ HEAD[y], HEAD[y], y, temperature))
  by_projector, by_classifier = both_losses(temperature)
  np.testing.assert_allclose(by_projector, projector, rtol=2e-5)
  np.testing.assert_allclose(by_classifier, classifier, rtol=2e-5)


def test_what_gets_a_gradient():
  def loss(head, queue, **options):
    return jnp.sum(
      contrastive_cross_entropy_loss(QUERIES, LABELS, queue, head, **options)
    )

  @jax.jit
  def gradients(head, queue):
    free = jax.grad(loss)(head, queue, stop_head_gradient=False)
    return jax.grad(loss, (0, 1))(head, queue), free

  stopped, free = gradients(HEAD, QUEUE)
  for gradient in stopped:
    assert not np.any(gradient)
  assert np.any(free)


def fill(keys, position, new, labels):
  keys, position = keys.copy(), position.copy()
  for key, label in zip(new, labels, strict=True):
    keys[label, position[label]] = key
    position[label] = (position[label] + 1) % keys.shape[1]
  return keys, position


def test_queue_equals_a_loop():
  """With more keys of a class than it holds, and masked ones."""
  start = KeyQueue(QUEUE, np.array([3, 0, 2], np.int32))
  labels = np.array([0, 1, 1, 1, 1, 1, 1, 0, 2, 1, 0, 0, 0, 0, 0, 2])
  where = np.arange(16) != 7
  for mask in (None, where):
    kept = slice(None) if mask is None else mask
    expected = fill(QUEUE, np.array([3, 0, 2]), KEYS[kept], labels[kept])
    result = ENQUEUE(start, KEYS, labels, where=mask)
    for a, b in zip(result, expected, strict=True):
      np.testing.assert_array_equal(a, b)


def test_queue_is_the_same_on_all_devices():
  queue = KeyQueue(QUEUE, np.zeros(CLASSES, np.int32))
  expected = ENQUEUE(queue, KEYS, LABELS)
  split = [x.reshape(8, 2, *x.shape[1:]) for x in (KEYS, LABELS)]
  mapped = jax.vmap(
    lambda queue, k, y: key_queue_update(queue, k, y, axis_name="batch"),
    (None, 0, 0),
    axis_name="batch",
  )
  results = jax.jit(mapped)(queue, *split)
  for a, b in zip(results, expected, strict=True):
    np.testing.assert_array_equal(a, np.broadcast_to(b, a.shape))


def test_a_new_queue_holds_directions():
  queue = jax.jit(lambda key: key_queue_init(key, 2, 3))(jax.random.key(0))
  assert queue.keys.shape == (2, 40, 3)
  assert not np.any(queue.position)
  np.testing.assert_allclose(
    np.linalg.norm(queue.keys, axis=-1), 1.0, rtol=1e-5
  )


def test_homogeneous_directions():
  rows, offsets = RNG.normal(size=(4, 3)), RNG.normal(size=4)
  x = np.concatenate([rows, offsets[:, None]], 1)
  expected = x / np.linalg.norm(x, axis=1, keepdims=True)

  @jax.jit
  def run(rows, offsets):
    slope = jax.grad(lambda x: jnp.sum(homogeneous_directions(x, jnp.zeros(1))))
    return homogeneous_directions(rows, offsets), slope(jnp.zeros((1, 2)))

  result, zero = run(np.float32(rows), np.float32(offsets))
  np.testing.assert_allclose(result, expected, rtol=1e-5)
  assert np.all(np.isfinite(zero))


def test_errors_name_the_argument():
  queue = KeyQueue(QUEUE, np.zeros(CLASSES, np.int32))
  with pytest.raises(ValueError, match=r"keys has shape \(16, 4\); expected 5"):
    key_queue_update(queue, KEYS[:, :4], LABELS)
  with pytest.raises(ValueError, match=r"size is 0; expected an integer"):
    key_queue_init(jax.random.key(0), 2, 3, size=0)
  with pytest.raises(ValueError, match=r"temperature is 0; expected"):
    categorical_contrastive_loss(QUERIES, KEYS, LABELS, QUEUE, temperature=0)
  with pytest.raises(ValueError, match=r"queue_keys has shape"):
    categorical_contrastive_loss(QUERIES, KEYS, LABELS, QUEUE[..., :4])
