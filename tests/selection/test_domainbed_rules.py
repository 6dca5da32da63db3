"""DomainBed's rules for choosing a model."""

import jax
import numpy as np
import pytest

from kdjax.selection import (
  leave_one_domain_out_selection,
  oracle_selection,
  training_domain_selection,
)

ACCURACIES = np.random.default_rng(0).uniform(size=(4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(
  "rule", [training_domain_selection, leave_one_domain_out_selection]
)
def test_the_best_mean_over_domains_and_missing_checkpoints(rule):
  means = ACCURACIES.mean(-1)
  select = jax.jit(rule)
  choice = jax.device_get(select(ACCURACIES))
  best = np.unravel_index(np.argmax(means), means.shape)
  assert (choice.run, choice.step) == best
  np.testing.assert_allclose(choice.score, means.max(), rtol=1e-6)
  # A checkpoint that lacks one domain is none.
  missing = ACCURACIES.copy()
  missing[*best, 1] = np.nan
  means[best] = 0
  choice = select(missing)
  assert (choice.run, choice.step) == np.unravel_index(
    np.argmax(means), means.shape
  )


def test_oracle_looks_at_the_last_checkpoint_only():
  select = jax.jit(oracle_selection)
  accuracies = ACCURACIES[..., 0].copy()
  accuracies[:, 0] = 0.999  # the best of all, but early
  choice = select(accuracies)
  assert choice.step == 4
  assert choice.run == np.argmax(accuracies[:, -1])
  accuracies[2, 3:] = np.nan  # crashed after its third
  accuracies[2, 2] = 0.9995
  choice = select(accuracies)
  assert (choice.run, choice.step) == (2, 2)


def test_nothing_to_choose_from_and_errors():
  choice = jax.jit(oracle_selection)(np.full((2, 3), np.nan, np.float32))
  assert choice.score == -np.inf
  equals = jax.jit(training_domain_selection)(np.ones((2, 2, 1)))
  assert equals.run == 0
  with pytest.raises(ValueError, match=r"accuracies has shape \(4, 5\)"):
    training_domain_selection(ACCURACIES[..., 0])
