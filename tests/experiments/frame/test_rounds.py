"""Rules of choice, and the plans of rounds."""

import jax
import numpy as np
import pytest

from experiments.frame import rounds, rules


def test_rules_choose_without_target_labels():
  scores = {
    "source_accuracy": np.array([0.95, 0.94, 0.97, 0.10]),
    "information": np.array([1.0, 1.9, 1.5, 2.2]),
  }
  expected = {"source_accuracy": 2, "information": 3, "guarded": 2}
  for rule, index in expected.items():
    assert rules.choose(rule, scores) == index


@pytest.mark.slow
def test_planned_steps_are_whole_epochs_in_new_orders():
  plan = rounds.plan_steps(jax.random.key(0), 5, 3, 5)
  index, mask = (np.asarray(plan[name]) for name in ("index", "mask"))
  assert index.shape == mask.shape == (5, 3)
  epochs = [index[i : i + 2][mask[i : i + 2]] for i in (0, 2)]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(5))
  assert not np.array_equal(*epochs)
