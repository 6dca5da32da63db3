"""Amalgamation of teachers with different classes."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import amalgamation_loss

STUDENT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
PAIR = [STUDENT[:, :2], STUDENT[:, 1:]]
CLASSES = [np.array([0, 1]), np.array([1, 2, 3])]


def test_teachers_that_agree_with_the_student_on_their_classes():
  loss = jax.jit(
    lambda *teachers: amalgamation_loss(STUDENT, teachers, CLASSES)
  )
  np.testing.assert_allclose(loss(*(x + 3 for x in PAIR)), 0, atol=1e-6)
  assert np.all(loss(PAIR[0] * 3, PAIR[1]) > 0)


@pytest.mark.parametrize(
  ("teachers", "classes", "message"),
  [
    ([], [], "0 teachers and 0 lists"),
    (PAIR, CLASSES[:1], "2 teachers and 1 lists"),
    (PAIR[:1], CLASSES[1:], r"expected \[batch, own\] = \(3, 3\)"),
    (PAIR[:1], [np.array([0, 4])], r"is \[0, 4\]; expected different classes"),
    (PAIR[:1], [np.array([1, 1])], r"is \[1, 1\]; expected different classes"),
  ],
)
def test_bad_input_is_named(teachers, classes, message):
  with pytest.raises(ValueError, match=message):
    amalgamation_loss(STUDENT, teachers, classes)
