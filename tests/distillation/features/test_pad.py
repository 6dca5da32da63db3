"""Prime-aware adaptive distillation (PAD)."""

import jax
import numpy as np
import pytest

from kdjax.distillation import pad_l2_loss, vid_loss
from tests import laws

RNG = np.random.default_rng(0)
MEAN, TEACHER = RNG.normal(size=(2, 16, 3, 4, 5)).astype(np.float32)
VARIANCE = RNG.uniform(0.1, 6, 5).astype(np.float32)
ROWS, TEACHER_ROWS, LOG_VARIANCE = RNG.normal(size=(3, 16, 6)).astype(
  np.float32
)
CASES = {
  "vid": laws.Case(
    lambda mean, teacher, variance: vid_loss(mean, variance, teacher),
    (MEAN, TEACHER, VARIANCE),
    shared=(2,),
  ),
  "pad": laws.Case(
    pad_l2_loss, (ROWS, TEACHER_ROWS, LOG_VARIANCE), {"eps": 1e-3}
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_pad_equals_the_paper():
  gap, log_variance = np.float64(TEACHER_ROWS - ROWS), np.float64(LOG_VARIANCE)
  terms = gap**2 / (1e-3 + np.exp(log_variance)) + log_variance
  np.testing.assert_allclose(
    jax.jit(pad_l2_loss)(ROWS, TEACHER_ROWS, LOG_VARIANCE, eps=1e-3),
    terms.mean(1),
    rtol=1e-4,
    atol=1e-5,
  )


def test_pad_is_finite_at_any_log_variance():
  extremes = np.float32([[-1e4, -200, -1, 1, 200, 1e4]])
  program = jax.jit(
    jax.value_and_grad(lambda v: pad_l2_loss(ROWS[:1], TEACHER_ROWS[:1], v)[0])
  )
  value, gradient = program(extremes)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  np.testing.assert_allclose(np.asarray(gradient)[0, 4:], 1 / 6, rtol=1e-6)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="variance has shape"):
    laws.trace(vid_loss, MEAN, VARIANCE[:4], TEACHER)
  with pytest.raises(ValueError, match="teacher_features has shape"):
    laws.trace(vid_loss, MEAN, VARIANCE, TEACHER[:, :2])
  with pytest.raises(ValueError, match="eps is 0"):
    laws.trace(pad_l2_loss, ROWS, TEACHER_ROWS, LOG_VARIANCE, eps=0.0)
