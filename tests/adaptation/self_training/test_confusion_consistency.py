"""Consistency of class confusion between two views (TLlib)."""

import jax
import numpy as np
import pytest

from kdjax.adaptation import confusion_consistency_loss
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
@pytest.mark.parametrize(
  ("name", "law"),
  laws.pairs(CASES, without=[laws.gradients_equal_finite_differences]),
)
def test_law(name, law):
  law(CASES[name])


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


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
