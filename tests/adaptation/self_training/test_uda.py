"""Unsupervised data augmentation (UDA)."""

import functools

import jax
import numpy as np
import pytest

from kdjax.adaptation import uda_loss

rng = np.random.default_rng(0)
STRONG = 2 * rng.normal(size=(16, 5)).astype(np.float32)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("sharpen", ["student", "teacher"])
@pytest.mark.parametrize("average", ["confident", "all"])
def test_uda_equals_numpy(sharpen, average):
  scale = {"student": (0.6, 1.0), "teacher": (1.0, 0.6)}[sharpen]
  p, q = softmax(STRONG / scale[0]), softmax(WEAK / scale[1])
  confident = softmax(WEAK).max(-1) >= 0.6
  values = np.sum(q * (np.log(q) - np.log(p)), -1) * confident
  expected = values.sum() / (confident.sum() if average == "confident" else 16)
  form = functools.partial(uda_loss, sharpen=sharpen, average=average)
  got = jax.jit(form)(STRONG, WEAK, threshold=0.6, temperature=0.6)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
