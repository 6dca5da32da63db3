"""Factor transfer: two stages of one form."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.features._ft import _ft, _ft_initialization
from tests.methods.distillation.networks import (
  KEY,
  STAGED,
  STAGED_MASK,
  STAGED_WIDE,
  pair,
)


@pytest.mark.slow
def test_factor_transfer_freezes_what_the_first_stage_has_learned():
  """Both stages have one form; the last keeps the encoder out of params."""
  first = _ft_initialization()
  second = _ft(form="factors")
  params, state = jax.jit(lambda: first.init(KEY, pair(STAGED, STAGED_WIDE)))()
  params["paraphraser"] = jax.tree.map(lambda x: -x, params["paraphraser"])

  def loss(objective, params, state, student, teacher):
    value, state, _ = objective.apply(
      params, state, pair(student, teacher), {"mask": STAGED_MASK}, KEY
    )
    return value, state

  gradient = jax.jit(
    jax.value_and_grad(loss, (1, 3, 4), has_aux=True), static_argnums=0
  )
  (_, moved), gradients = gradient(first, params, state, STAGED, STAGED_WIDE)
  assert all(map(np.any, jax.tree.leaves(gradients[0]["paraphraser"])))
  for leaf in jax.tree.leaves((gradients[0]["translator"], gradients[1:])):
    np.testing.assert_array_equal(leaf, 0)
  after = jax.eval_shape(lambda: second.init(KEY, pair(STAGED, STAGED_WIDE)))
  assert [x.shape for x in jax.tree.leaves(after)] == [
    x.shape for x in jax.tree.leaves((params, moved))
  ]
  (value, kept), gradients = gradient(
    second, params, moved, STAGED, STAGED_WIDE
  )
  assert np.any(gradients[1].features["f2"] != 0)
  for leaf in jax.tree.leaves((gradients[0]["paraphraser"], gradients[2])):
    np.testing.assert_array_equal(leaf, 0)
  # What the first step finds counts, its last update included; no later one.
  decayed = params | {
    "paraphraser": jax.tree.map(lambda x: 0.9 * x, params["paraphraser"])
  }
  (later, _), _ = gradient(second, decayed, kept, STAGED, STAGED_WIDE)
  (other, _), _ = gradient(second, decayed, moved, STAGED, STAGED_WIDE)
  assert later == value
  assert other != value
