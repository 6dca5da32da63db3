"""FixMatch: pseudo-labels from a weak view for a strong view."""

import functools

import jax
import numpy as np

from kdjax.adaptation import fixmatch_loss


def test_a_threshold_that_is_reached_counts():
  even = np.zeros((3, 2), np.float32)
  each = np.float32([0.4, 0.5, 0.51])
  values = jax.jit(fixmatch_loss)(even, even, threshold=each)
  np.testing.assert_array_equal(np.asarray(values) > 0, [True, True, False])
  one = jax.jit(functools.partial(fixmatch_loss, threshold=0.5))
  assert np.all(np.asarray(one(even, even)) > 0)
