"""ReviewKD's hierarchical context loss."""

import jax
import numpy as np
import pytest

from kdjax.distillation import hierarchical_context_loss, hint_loss
from tests import laws

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32)
CASES = {
  "hint": laws.Case(hint_loss, (STUDENT, TEACHER)),
  "hcl": laws.Case(hierarchical_context_loss, (STUDENT, TEACHER)),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def oracle_pool(maps, size):
  """Bins from floor(i n / size) to ceil((i + 1) n / size)."""
  n = maps.shape[1]
  bins = [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
  return np.stack(
    [np.stack([maps[:, r, c].mean((1, 2)) for c in bins], 1) for r in bins], 1
  )


@pytest.mark.parametrize(
  ("height", "scales"), [(6, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())]
)
def test_hcl_equals_the_formula(height, scales):
  student = np.float64(STUDENT[:, :height, :height])
  teacher = np.float64(TEACHER[:, :height, :height])
  terms = [np.square(student - teacher).mean((1, 2, 3))]
  for size in scales:
    pooled = oracle_pool(student, size) - oracle_pool(teacher, size)
    terms.append(np.square(pooled).mean((1, 2, 3)))
  weights = 0.5 ** np.arange(len(terms))
  expected = weights @ np.array(terms) / weights.sum()
  got = jax.jit(hierarchical_context_loss)(student, teacher)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [hint_loss, hierarchical_context_loss])
def test_shapes_do_not_broadcast(loss):
  with pytest.raises(ValueError, match="teacher_features has shape"):
    loss(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4, 1)))
