"""The budget of noised messages."""

import jax
import numpy as np
import pytest
import scipy.optimize

from kdjax.federated import privacy_epsilon


@pytest.mark.parametrize(
  ("sigma", "rounds", "delta"), [(1.0, 1, 1e-5), (20.0, 60, 1e-3)]
)
def test_the_budget_is_the_least_over_all_orders(sigma, rounds, delta):
  """Renyi's bound of order a, converted to (epsilon, delta)."""

  def bound(a):
    return rounds * a / (2 * sigma**2) + np.log(1 / delta) / (a - 1)

  best = scipy.optimize.minimize_scalar(bound, bounds=(1 + 1e-6, 1e4))
  epsilon = privacy_epsilon(sigma, rounds=rounds, delta=delta)
  np.testing.assert_allclose(epsilon, best.fun, rtol=1e-4)


def test_more_rounds_cost_more_and_more_noise_less():
  budgets = jax.vmap(lambda s: privacy_epsilon(s, rounds=10))(
    np.float32([0.5, 1.0, 8.0])
  )
  assert np.all(np.diff(budgets) < 0)
  assert privacy_epsilon(1.0, rounds=20) > privacy_epsilon(1.0, rounds=10)


def test_numbers_out_of_range_are_named():
  with pytest.raises(ValueError, match="noise_multiplier is 0"):
    privacy_epsilon(0, rounds=1)
  with pytest.raises(ValueError, match="rounds is -1"):
    privacy_epsilon(1.0, rounds=-1)
  with pytest.raises(ValueError, match="delta is 2"):
    privacy_epsilon(1.0, rounds=1, delta=2)
