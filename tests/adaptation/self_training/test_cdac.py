"""Cross-domain adaptive clustering (CDAC)."""

import jax
import numpy as np
import pytest

from kdjax.adaptation import cdac_loss

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_cdac():
  features = rng.normal(size=(16, 8)).astype(np.float32)
  features[5] = 2 * features[3]
  features[9] = features[3]
  largest = np.sort(np.argsort(-features, 1)[:, :3], 1)
  alike = np.all(largest[:, None] == largest[None], -1)
  assert alike.sum() > 16
  together = softmax(A) @ softmax(B).T
  terms = np.where(alike, np.log(together + 1e-7), np.log(1 - together + 1e-7))
  run = jax.jit(cdac_loss, static_argnames="num_largest")
  np.testing.assert_allclose(
    run(features, A, B, num_largest=3), terms.mean(), rtol=1e-5
  )
  where = np.arange(16) % 3 > 0
  spoiled = [np.where(where[:, None], x, np.nan) for x in (features, A, B)]
  np.testing.assert_allclose(
    run(*spoiled, num_largest=3, where=where),
    terms[where][:, where].mean(),
    rtol=1e-5,
  )
  assert run(features, A, B, num_largest=3, where=np.zeros(16, bool)) == 0
  split = [x.reshape(8, 2, -1) for x in (features, A, B)]
  devices = jax.pmap(
    lambda f, a, b: cdac_loss(f, a, b, num_largest=3, axis_name="batch"),
    "batch",
  )
  np.testing.assert_allclose(devices(*split), terms.mean(), rtol=1e-5)
  gradient = jax.jit(
    jax.grad(lambda a, b: cdac_loss(features, a, b, num_largest=3), (0, 1))
  )
  for stretch in np.float32([0.0, 1e4]):
    for leaf in gradient(stretch * A, stretch * B):
      assert np.all(np.isfinite(leaf))
  with pytest.raises(ValueError, match="top is 9; expected at most 8"):
    cdac_loss(features, A, B, num_largest=9)
