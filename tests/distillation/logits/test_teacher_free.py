"""Teacher-free distillation (Tf-KD): a virtual teacher."""

import jax
import numpy as np
import pytest

from kdjax.distillation import virtual_teacher_loss
from tests import laws, oracles

RNG = np.random.default_rng(5)
STUDENT, PARTNER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def without_teacher(student, teacher, labels, **options):
  """In the form that the laws expect."""
  del teacher
  return virtual_teacher_loss(student, labels, **options)


VIRTUAL = jax.jit(virtual_teacher_loss)
CASES = {
  "virtual_teacher": laws.Case(
    without_teacher,
    (STUDENT, PARTNER, LABELS),
    {"temperature": 3.0, "correct_probability": 0.9},
    unused=(1,),
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_virtual_teacher_equals_the_formula():
  u = np.full((16, 6), 0.1 / 5)
  u[np.arange(16), LABELS] = 0.9
  p = np.exp(oracles.log_softmax(u, 3.0))
  expected = oracles.kl(p, np.exp(oracles.log_softmax(STUDENT))) / 6
  np.testing.assert_allclose(
    VIRTUAL(STUDENT, LABELS, temperature=3.0, correct_probability=0.9),
    np.float64(expected),
    rtol=1e-5,
  )


def test_classes_that_the_student_masks_are_as_if_absent():
  masked = np.concatenate([STUDENT, np.full((16, 1), -np.inf, np.float32)], 1)
  np.testing.assert_allclose(
    VIRTUAL(masked, LABELS),
    VIRTUAL(STUDENT, LABELS),
    rtol=1e-6,
  )


def test_hyper_parameters_are_one_number_or_one_an_example():
  each = np.linspace(2.0, 9.0, 16, dtype=np.float32)
  values = VIRTUAL(
    STUDENT, LABELS, temperature=each, correct_probability=each / 10
  )
  one = VIRTUAL(STUDENT, LABELS, temperature=9.0, correct_probability=0.9)
  np.testing.assert_allclose(
    np.asarray(values)[-1], np.asarray(one)[-1], rtol=1e-6
  )
  for name in ("temperature", "correct_probability"):
    with pytest.raises(ValueError, match=rf"{name} has shape \(6,\); expected"):
      laws.trace(virtual_teacher_loss, STUDENT, LABELS, **{name: each[:6] / 10})


def test_a_probability_is_at_most_one():
  with pytest.raises(ValueError, match="correct_probability is 2; expected"):
    laws.trace(virtual_teacher_loss, STUDENT, LABELS, correct_probability=2)
