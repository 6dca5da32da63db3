"""Debiased self-training (DST)."""

import jax
import numpy as np
import pytest

from kdjax.adaptation import dst_loss, mdd_loss

rng = np.random.default_rng(0)
A, B = (2 * rng.normal(size=(16, 5)).astype(np.float32) for _ in range(2))


def test_dst_is_mdd_of_one_domain():
  arrays = (A, B, A[::-1], B[3:].repeat(2, 0)[:16])

  @jax.jit
  def both(*arrays):
    return dst_loss(*arrays, eta=1.5), mdd_loss(*arrays, margin=1.5)

  value, expected = both(*arrays)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="unlabeled_logits has shape"):
    dst_loss(A, B, A[:, :4], B[:, :4])
