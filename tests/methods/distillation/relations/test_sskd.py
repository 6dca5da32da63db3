"""SSKD: what trains which head."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.relations._sskd import _sskd
from tests.methods.distillation.networks import (
  BATCH,
  KEY,
  STUDENT,
  TEACHER,
  in_views,
)

OUTPUTS = in_views(STUDENT, TEACHER, ("rotated_1", "rotated_2", "rotated_3"))


@pytest.mark.slow
def test_only_the_pretext_task_trains_the_teachers_head():
  def slope(**weights):
    objective = _sskd(transformed_weight=0.0, **weights)

    @jax.jit
    def program(outputs):
      params, state = objective.init(KEY, outputs)

      def value(params):
        return objective.apply(params, state, outputs, BATCH, KEY)[0]

      return jax.grad(value)(params)

    return program(OUTPUTS)

  with_similarity, without = slope(), slope(similarity_weight=0.0)
  for a, b in zip(
    *(jax.tree.leaves(x["teacher"]) for x in (with_similarity, without)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  assert any(np.any(x != 0) for x in jax.tree.leaves(without["teacher"]))
  for leaf in jax.tree.leaves(without["student"]):
    np.testing.assert_array_equal(leaf, 0.0)
