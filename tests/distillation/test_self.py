"""CS-KD and the virtual teacher: laws and oracles."""

import jax
import numpy as np
import pytest

from kdjax.distillation import cskd_in_batch_loss
from kdjax.distillation import cskd_loss
from kdjax.distillation import soft_target_loss
from kdjax.distillation import virtual_teacher_loss
from tests import laws
from tests import oracles

RNG = np.random.default_rng(5)
STUDENT, PARTNER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def without_teacher(loss):
  """In the form that the laws expect."""
  return lambda student, teacher, labels, **options: loss(
    student, labels, **options
  )


CASES = {
  "cskd_in_batch": laws.Case(
    without_teacher(cskd_in_batch_loss),
    (STUDENT, PARTNER, LABELS),
    {"temperature": 3.0},
    coupled=True,
  ),
  "virtual_teacher": laws.Case(
    without_teacher(virtual_teacher_loss),
    (STUDENT, PARTNER, LABELS),
    {"temperature": 3.0, "correct_probability": 0.9},
  ),
}


@pytest.mark.parametrize("law", laws.LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  if (name, law) == (
    "cskd_in_batch",
    laws.gradients_equal_finite_differences,
  ):
    pytest.skip("its partners move with the student, without gradient")
  law(CASES[name])


def test_cskd_is_distillation_from_the_partner():
  np.testing.assert_array_equal(
    cskd_loss(STUDENT, PARTNER), soft_target_loss(STUDENT, PARTNER)
  )


def test_partners_are_the_next_of_the_class():
  labels = np.array([0, 1, 0, 2, 0, 1])
  where = np.array([True, True, True, True, True, False])
  q = np.exp(oracles.log_softmax(STUDENT, 2.0))
  pairs = [(0, 2), (2, 4), (4, 0)]
  expected = np.mean([4 * oracles.kl(q[j], q[i]) for i, j in pairs])
  value = jax.jit(cskd_in_batch_loss)(
    STUDENT[:6], labels, temperature=2.0, where=where
  )
  np.testing.assert_allclose(value, np.float64(expected), rtol=1e-5)


def test_no_partner_no_loss():
  assert jax.jit(cskd_in_batch_loss)(STUDENT[:6], np.arange(6)) == 0


def test_virtual_teacher_equals_the_formula():
  u = np.full((16, 6), 0.1 / 5)
  u[np.arange(16), LABELS] = 0.9
  p = np.exp(oracles.log_softmax(u, 3.0))
  expected = oracles.kl(p, np.exp(oracles.log_softmax(STUDENT))) / 6
  np.testing.assert_allclose(
    virtual_teacher_loss(
      STUDENT, LABELS, temperature=3.0, correct_probability=0.9
    ),
    np.float64(expected),
    rtol=1e-5,
  )


def test_a_probability_is_at_most_one():
  with pytest.raises(ValueError, match="correct_probability is 2; expected"):
    virtual_teacher_loss(STUDENT, LABELS, correct_probability=2)
