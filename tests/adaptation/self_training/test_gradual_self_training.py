"""Gradual self-training: from the source to the target by small steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import confident_pseudo_labels, gradual_self_training
from tests.laws import trace

PSEUDO = jax.jit(confident_pseudo_labels, static_argnames="confidence")


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_drops_what_numpy_s_quantile_drops(drop):
  for size in (1, 10, 11, 21):
    logits = np.random.default_rng(size).normal(size=(size, 4))
    p = softmax(logits)
    confidence = p.max(1) - p.min(1)
    kept = confidence >= np.quantile(confidence, drop)
    with jax.enable_x64(True):
      pseudo = PSEUDO(logits, drop=drop)
    np.testing.assert_array_equal(pseudo.mask, kept)
    np.testing.assert_array_equal(pseudo.labels, logits.argmax(1))
    single = PSEUDO(np.float32(logits), drop=drop)
    np.testing.assert_array_equal(single.mask, kept)


def test_equal_confidence_stays_and_padding_does_not_count():
  assert np.all(PSEUDO(np.zeros((10, 4), np.float32), drop=0.5).mask)
  logits = np.float32(np.random.default_rng(0).normal(size=(10, 3)))
  where = np.arange(10) < 7
  padded = np.where(where[:, None], logits, np.nan)
  pseudo = PSEUDO(padded, drop=0.3, where=where)
  alone = PSEUDO(logits[:7], drop=0.3)
  mask = np.asarray(pseudo.mask)
  np.testing.assert_array_equal(mask[:7], alone.mask)
  assert not np.any(mask[7:])
  assert not np.any(PSEUDO(logits, drop=0.3, where=np.zeros(10, bool)).mask)
  largest = PSEUDO(logits, drop=0.3, confidence="max")
  assert np.sum(np.asarray(largest.mask)) == 7


def means_of(means, x, labels, mask, key):
  del key
  member = jax.nn.one_hot(labels, 2) * mask[:, None]
  found = member.T @ x / jnp.maximum(member.sum(0), 1)[:, None]
  return jnp.where(member.sum(0)[:, None] > 0, found, means)


def distances(means, x):
  return -jnp.sum((x[:, None] - means[None]) ** 2, -1)


def rotating_blocks(count, size=60):
  """Two clusters that turn by 150 degrees in `count` steps."""
  draw = np.random.default_rng(0)
  blocks, labels = [], []
  for angle in np.linspace(0, 5 * np.pi / 6, count + 1)[1:]:
    y = draw.integers(0, 2, size)
    center = np.array([np.cos(angle), np.sin(angle)])
    x = (2 * y - 1)[:, None] * center + 0.2 * draw.normal(size=(size, 2))
    blocks.append(np.float32(x))
    labels.append(y)
  return blocks, labels


@pytest.mark.slow
def test_small_steps_arrive_where_one_step_does_not():
  start = np.float32([[-1.0, 0.0], [1.0, 0.0]])
  blocks, labels = rotating_blocks(6)

  def accuracy(result):
    means = np.asarray(result.variables)
    squares = np.sum((blocks[-1][:, None] - means[None]) ** 2, -1)
    return np.mean(squares.argmin(1) == labels[-1])

  key = jax.random.key(0)
  run = jax.jit(
    lambda start, blocks: gradual_self_training(
      key, start, blocks, means_of, distances, drop=0.1
    )
  )
  result = run(start, blocks)
  assert accuracy(result) > 0.95
  assert accuracy(run(start, blocks[-1:])) < 0.2
  assert result.kept.shape == result.confidence.shape == (6,)
  np.testing.assert_allclose(result.kept, 54 / 60, atol=0.02)
  stacked = run(start, np.stack(blocks))
  np.testing.assert_allclose(stacked.variables, result.variables, rtol=1e-5)


def test_weights_are_carried_on_and_keys_differ():
  seen = []

  def fit(variables, x, labels, mask, key):
    seen.append((variables, x.shape, labels.dtype, mask.dtype, key))
    return variables + 1

  @jax.jit
  def run(key):
    result = gradual_self_training(
      key,
      0,
      [jnp.zeros((3, 2)), jnp.zeros((5, 2))],
      fit,
      lambda variables, x: x,
      num_repeats=2,
      where=[jnp.ones(3, bool), jnp.arange(5) < 4],
    )
    return result, [jax.random.key_data(s[4]) for s in seen]

  result, keys = jax.device_get(run(jax.random.key(0)))
  assert result.variables == 4
  assert [s[0] for s in seen] == [0, 1, 2, 3]
  assert len({tuple(key.tolist()) for key in keys}) == 4
  np.testing.assert_allclose(result.kept, 1.0)


def test_errors_name_the_argument():
  arguments = (means_of, distances)
  with pytest.raises(ValueError, match="blocks is empty"):
    gradual_self_training(jax.random.key(0), 0, [], *arguments)
  with pytest.raises(ValueError, match="where has 1 masks; expected 2"):
    gradual_self_training(
      jax.random.key(0), 0, [1, 2], *arguments, where=[np.ones(1, bool)]
    )
  with pytest.raises(ValueError, match=r"drop is -0\.1"):
    trace(confident_pseudo_labels, np.zeros((2, 2), np.float32), drop=-0.1)
  with pytest.raises(ValueError, match="confidence is 'margin'"):
    trace(
      confident_pseudo_labels, np.zeros((2, 2), np.float32), confidence="margin"
    )
