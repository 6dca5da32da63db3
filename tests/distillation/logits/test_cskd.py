"""Class-wise self-knowledge distillation (CS-KD)."""

import jax
import numpy as np

from kdjax.distillation import cskd_loss, soft_target_loss

RNG = np.random.default_rng(5)
STUDENT, PARTNER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)


def test_cskd_is_distillation_from_the_partner():
  values, expected = jax.jit(
    lambda *logits: (cskd_loss(*logits), soft_target_loss(*logits))
  )(STUDENT, PARTNER)
  np.testing.assert_array_equal(values, expected)
