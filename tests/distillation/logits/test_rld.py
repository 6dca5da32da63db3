"""Refined logit distillation (RLD)."""

import jax
import numpy as np
import pytest

from kdjax.distillation import rld_loss, soft_target_loss
from tests import laws

RNG = np.random.default_rng(2)
STUDENT, TEACHER, STRONG, TEACHER_STRONG = (
  3 * RNG.normal(size=(4, 16, 6))
).astype(np.float32)


def test_rld_never_argues_against_the_label():
  """A student that copies a wrong teacher is moved towards the label."""
  teacher, label = np.float32([[5.0, 3.0, 0.0]]), np.array([1])

  @jax.jit
  def program(student):
    gradient = jax.grad(lambda s: rld_loss(s, teacher, label)[0])(student)
    return gradient, soft_target_loss(student, teacher)

  gradient, soft = program(teacher)
  assert gradient[0, 1] < -0.1
  assert soft == 0


def test_rld_without_a_class_below_the_label():
  teacher, lowest = TEACHER, np.argmin(TEACHER, -1)
  values = jax.jit(rld_loss)(STUDENT, teacher, lowest, alpha=0.0)
  np.testing.assert_array_equal(values, 0.0)


def test_labels_must_be_integers_for_rld():
  with pytest.raises(TypeError, match="labels has dtype float32"):
    laws.trace(rld_loss, STUDENT, TEACHER, TEACHER)
