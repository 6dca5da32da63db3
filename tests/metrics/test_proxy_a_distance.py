"""The proxy A-distance, and what it has to do with the H-divergence."""

import numpy as np
import pytest

from kdjax.adaptation import h_divergence_from_errors
from kdjax.metrics import proxy_a_distance


def test_equals_the_h_divergence_of_equally_large_domains():
  source, target = np.array([0.1, 0.3, 0.9]), np.array([0.2, 0.1, 0.4])
  np.testing.assert_allclose(
    proxy_a_distance((source + target) / 2),
    h_divergence_from_errors(source, target),
    rtol=1e-6,
  )


def test_a_majority_vote_looks_far_when_domains_are_unequal():
  # Nine rows in ten are target rows, and all are called target.
  np.testing.assert_allclose(proxy_a_distance(0.1), 1.6, rtol=1e-6)
  assert h_divergence_from_errors(1.0, 0.0) == 0


def test_an_error_is_a_share():
  with pytest.raises(ValueError, match=r"error is 1\.5"):
    proxy_a_distance(1.5)
