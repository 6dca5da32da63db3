"""Chains of assistants: against all chains, one by one."""

import itertools

import numpy as np
import pytest

from kdjax.collaboration import best_assistants, evenly_spaced_assistants

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_evenly_spaced_chain_is_the_best_of_all_chains(count):
  for _ in range(20):
    accuracies = np.sort(RNG.uniform(size=7))[::-1]
    accuracies[2], accuracies[4] = accuracies[4], accuracies[2]
    chains = [
      (0, *between, 6) for between in itertools.combinations(range(1, 6), count)
    ]
    costs = [np.square(np.diff(accuracies[list(x)])).sum() for x in chains]
    found = evenly_spaced_assistants(accuracies, num_assistants=count)
    assert found == chains[int(np.argmin(costs))]


def test_one_assistant_is_near_the_mean_of_the_ends():
  accuracies = [0.98, 0.979, 0.977, 0.94, 0.9, 0.88, 0.8]
  chain = evenly_spaced_assistants(accuracies)
  assert abs(accuracies[chain[1]] - 0.89) == min(
    abs(a - 0.89) for a in accuracies[1:-1]
  )


def test_search_over_pairs_finds_the_chain_that_trained_best():
  # The gain of a pair depends on the pair alone, and a better teacher helps.
  count = 6
  gain = RNG.uniform(-1, 1, (count, count))
  reached = np.zeros(count)
  accuracies = np.full((count, count), np.nan)
  for j in range(1, count):
    accuracies[:j, j] = reached[:j] + gain[:j, j]
    reached[j] = accuracies[:j, j].max()

  def value(chain):
    return sum(gain[a, b] for a, b in itertools.pairwise(chain))

  for last in range(1, count):
    chains = [
      (0, *between, last)
      for size in range(last)
      for between in itertools.combinations(range(1, last), size)
    ]
    found = best_assistants(accuracies[: last + 1, : last + 1])
    assert found == max(chains, key=value)


def test_untrained_pairs_and_ties():
  nan = np.nan
  matrix = [[nan, 0.9, 0.7, nan], [nan, nan, 0.7, 0.6], [0.0] * 3 + [nan]]
  assert best_assistants([*matrix, [0.0] * 4]) == (0, 1, 3)
  assert best_assistants(np.array([*matrix, [0.0] * 4])[:3, :3]) == (0, 2)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="num_assistants is 2; expected at most"):
    evenly_spaced_assistants([0.9, 0.8, 0.7], num_assistants=2)
  with pytest.raises(ValueError, match=r"accuracies is .*; expected finite"):
    evenly_spaced_assistants([0.9, np.nan, 0.7])
  with pytest.raises(ValueError, match=r"accuracies has shape \(2, 3\)"):
    best_assistants(np.zeros((2, 3)))
  with pytest.raises(ValueError, match="no number in column 1"):
    best_assistants(np.full((2, 2), np.nan))
