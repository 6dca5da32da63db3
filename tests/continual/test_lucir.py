"""LUCIR against the formulas of its authors' code."""

import numpy as np
import pytest

from kdjax.continual import lucir_loss, lucir_margin_loss

RNG = np.random.default_rng(0)


def test_less_forget_is_one_minus_the_cosine():
  """PyTorch's CosineEmbeddingLoss with the target 1."""
  ours, past = RNG.normal(size=(2, 6, 4)).astype(np.float32)
  past[0] = 3 * ours[0]
  ours[1] = 0
  norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(past, axis=1)
  expected = 1 - (ours * past).sum(1) / np.where(norms == 0, 1, norms)
  np.testing.assert_allclose(lucir_loss(ours, past), expected, atol=1e-6)


@pytest.mark.slow
def test_margin_ranking_of_replayed_examples():
  """MarginRankingLoss over the K hardest new classes, as the authors."""
  cosines = RNG.uniform(-1, 1, size=(6, 7)).astype(np.float32)
  labels = np.array([0, 3, 6, 2, 5, 1])
  new = np.arange(7) >= 4
  hardest = -np.sort(-cosines[:, 4:], 1)[:, :2]
  own = np.take_along_axis(cosines, labels[:, None], 1)
  expected = np.maximum(0.5 - (own - hardest), 0).mean(1)
  expected[labels >= 4] = 0
  losses = lucir_margin_loss(cosines, labels, new)
  np.testing.assert_allclose(losses, expected, rtol=1e-6)
  # With more negatives than new classes, those that there are count.
  one = lucir_margin_loss(cosines, labels, np.arange(7) == 6, num_negatives=3)
  expected = np.maximum(0.5 - own[:, 0] + cosines[:, 6], 0)
  np.testing.assert_allclose(one[labels < 6], expected[labels < 6], rtol=1e-6)
