"""Chains of teachers: what is dropped does not count."""

import jax
import numpy as np
import pytest

from kdjax.collaboration import annealing_loss, dense_guidance_loss

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(4, 5)).astype(np.float32)
TEACHERS = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def test_dropped_teachers_do_not_count():
  keep = np.array([True, False, True])
  np.testing.assert_allclose(
    jax.jit(dense_guidance_loss)(STUDENT, TEACHERS, keep=keep),
    jax.jit(dense_guidance_loss)(STUDENT, TEACHERS[keep]),
    rtol=1e-6,
  )


def test_annealing_ends_at_the_teacher_itself():
  loss = annealing_loss(
    STUDENT, TEACHERS[0], temperature=1.0, max_temperature=10.0
  )
  expected = np.square(STUDENT - TEACHERS[0]).mean(-1)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="max_temperature is 0"):
    annealing_loss(STUDENT, STUDENT, temperature=1.0, max_temperature=0.0)
  with pytest.raises(ValueError, match=r"teacher_logits has shape \(4, 5\)"):
    dense_guidance_loss(STUDENT, STUDENT)
