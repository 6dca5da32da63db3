"""FlexMatch: a confidence threshold for each class."""

import jax
import numpy as np
import pytest

from kdjax.adaptation import (
  flexmatch_init,
  flexmatch_thresholds,
  flexmatch_update,
)

rng = np.random.default_rng(0)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("warmup", [True, False])
def test_flexmatch_counts_the_last_confident_labels(warmup):
  state = flexmatch_init(num_examples=20, num_classes=5)

  @jax.jit
  def run(state):
    """The thresholds of each mapping."""
    return {
      mapping: flexmatch_thresholds(
        state, WEAK, threshold=0.9, warmup=warmup, mapping=mapping
      )
      for mapping in ("convex", "linear", "concave")
    }

  for thresholds in run(state).values():
    np.testing.assert_array_equal(thresholds, 0)
  labels = np.full(20, -1)
  update = jax.jit(flexmatch_update)
  draw = np.random.default_rng(1)
  for _ in range(4):
    indices = draw.permutation(20)[:16]
    logits = 2 * draw.normal(size=(16, 5)).astype(np.float32)
    q = softmax(logits)
    confident = q.max(-1) >= 0.6
    labels[indices[confident]] = q.argmax(-1)[confident]
    state = update(state, logits, indices, threshold=0.6)
    np.testing.assert_array_equal(state.labels, labels)
  counts = np.bincount(labels[labels >= 0], minlength=5)
  largest = max(counts.max(), np.sum(labels < 0) if warmup else 0)
  beta = counts / largest
  result = run(state)
  for mapping, of_beta in {
    "convex": beta / (2 - beta),
    "linear": beta,
    "concave": np.log2(1 + beta),
  }.items():
    np.testing.assert_allclose(
      result[mapping], 0.9 * of_beta[WEAK.argmax(-1)], rtol=1e-5
    )
  masked = update(
    state, WEAK, np.arange(16), threshold=0.6, where=np.zeros(16, bool)
  )
  np.testing.assert_array_equal(masked.labels, state.labels)
