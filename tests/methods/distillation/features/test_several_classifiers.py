"""SimKD and SRRL: the teacher's classifier reused."""

import jax
import numpy as np
import pytest

from kdjax.methods.distillation.features._cat import _cat
from kdjax.methods.distillation.features._simkd import _simkd
from kdjax.methods.distillation.features._srrl import _srrl
from tests.methods.distillation.networks import (
  BOTH,
  KEY,
  ROWS,
  STUDENT,
  TEACHER,
  VIT,
  pair,
  run,
)


@pytest.mark.slow
def test_simkd_answers_with_the_teachers_classifier():
  objective = _simkd()
  params, state = jax.jit(lambda: objective.init(KEY, BOTH))()
  predict = jax.jit(objective.predict)
  logits = predict(params, state, BOTH)
  assert logits.shape == (ROWS, 3)
  kernel, bias = TEACHER.classifier
  other = TEACHER._replace(classifier=(2 * kernel, bias + 1))
  np.testing.assert_allclose(
    predict(params, state, pair(STUDENT, other)),
    2 * (logits - bias[None]) + bias[None] + 1,
    rtol=1e-4,
    atol=1e-4,
  )


def test_heads_refuse_networks_they_do_not_fit():
  with pytest.raises(ValueError, match="teacher has tokens of shape"):
    _simkd().init(KEY, pair(STUDENT, VIT))
  headless = TEACHER._replace(classifier=None)
  with pytest.raises(ValueError, match="teacher has no classifier"):
    run(_srrl(), STUDENT, headless)
  narrow = TEACHER._replace(classifier=STUDENT.classifier)
  with pytest.raises(ValueError, match="classifier of 5 inputs"):
    run(_cat(), STUDENT, narrow)
