"""Every method of adaptation, generalization and fine-tuning trains."""

import jax
import numpy as np
import pytest

from kdjax import objectives
from tests.objectives.learners import KEY
from tests.objectives.learners import learner_of

ROWS = [
  name
  for name, row in objectives.PRESETS.items()
  if row.area in ("adaptation", "generalization", "finetuning")
]


@pytest.mark.parametrize("name", ROWS)
def test_two_steps_of_every_method_are_finite_and_move(name):
  learner, batch = learner_of(name)

  step = jax.jit(learner.step)
  state = jax.jit(learner.init)(KEY, batch)
  first, _ = step(state, learner.frozen, batch, KEY)
  last, metrics = step(first, learner.frozen, batch, KEY)
  start = state.student.params
  for leaf in jax.tree.leaves((last.params, metrics)):
    assert np.all(np.isfinite(leaf))
  moved = jax.tree.map(lambda a, b: np.any(a != b), start, last.student.params)
  still = name == "adabn"  # batch statistics alone
  assert any(jax.tree.leaves(moved)) != still
  assert "loss" in metrics
