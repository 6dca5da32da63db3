"""Cross-view consistency regularisation (CRLD)."""

import jax
import numpy as np
import pytest

from kdjax.distillation import crld_loss, rld_loss
from tests import laws, oracles

RNG = np.random.default_rng(2)
STUDENT, TEACHER, STRONG, TEACHER_STRONG = (
  3 * RNG.normal(size=(4, 16, 6))
).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def softmax(logits, temperature=1.0):
  return np.exp(oracles.log_softmax(logits, temperature))


def test_crld_equals_the_paper():
  def soft(student, teacher):
    return 9 * oracles.kl(softmax(teacher, 3.0), softmax(student, 3.0))

  sure = softmax(TEACHER).max(-1) >= 0.7, softmax(TEACHER_STRONG).max(-1) >= 0.6
  assert all(0 < s.sum() < 16 for s in sure)
  within = soft(STUDENT, TEACHER) + soft(STRONG, TEACHER_STRONG)
  cross = soft(STRONG, TEACHER) + soft(STUDENT, TEACHER_STRONG)
  values = jax.jit(crld_loss)(
    STUDENT,
    TEACHER,
    STRONG,
    TEACHER_STRONG,
    temperature=3.0,
    weak_threshold=0.7,
    strong_threshold=0.6,
    within_weight=1.5,
    cross_weight=0.3,
  )
  expected = 1.5 * sure[0] * within + 0.3 * sure[1] * cross
  np.testing.assert_allclose(values, np.float64(expected), rtol=1e-5)


def test_crld_refuses_an_impossible_threshold():
  with pytest.raises(ValueError, match=r"weak_threshold is 1\.5; expected"):
    laws.trace(
      crld_loss, STUDENT, TEACHER, STRONG, TEACHER_STRONG, weak_threshold=1.5
    )


def test_weights_never_broadcast_against_the_batch():
  for name in ("alpha", "alpha_temperature"):
    with pytest.raises(
      ValueError, match=rf"^{name} has shape \(3,\); expected"
    ):
      laws.trace(
        rld_loss, STUDENT[:1], TEACHER[:1], LABELS[:1], **{name: np.ones(3)}
      )
  one = (x[:1] for x in (STUDENT, TEACHER, STRONG, TEACHER_STRONG))
  with pytest.raises(ValueError, match=r"within_weight has shape \(3,\)"):
    laws.trace(crld_loss, *one, within_weight=np.ones(3))
