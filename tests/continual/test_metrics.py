"""Metrics of a sequence of tasks, as mammoth computes them."""

import jax
import numpy as np
import pytest

from kdjax.continual import continual_metrics

# Recorded from mammoth's utils/metrics.py, whose forgetting is that of all
# rows: .0987, against the paper's .0163.
ACCURACIES = np.array(
  [
    [0.744, 0.746, 0.512, 0.329],
    [0.143, 0.407, 0.427, 0.136],
    [0.139, 0.899, 0.622, 0.288],
    [0.448, 0.95, 0.818, 0.775],
  ]
)
RANDOM = np.array([0.109, 0.124, 0.152, 0.059])
EXPECTED = (0.74775, 0.049 / 3, 0.443 / 3, 1.126 / 3)


def test_metrics_equal_the_recorded_ones():
  with jax.enable_x64(True):
    metrics = jax.jit(continual_metrics)(ACCURACIES, RANDOM)
  np.testing.assert_allclose(metrics, EXPECTED, rtol=1e-12)
  assert continual_metrics(ACCURACIES).forward_transfer is None


def test_a_single_task_forgets_nothing():
  metrics = continual_metrics(np.array([[0.5]]), np.array([0.25]))
  np.testing.assert_array_equal(metrics, (0.5, 0, 0, 0))
  with pytest.raises(ValueError, match=r"accuracies has shape \(3, 4\)"):
    continual_metrics(ACCURACIES[:3])
