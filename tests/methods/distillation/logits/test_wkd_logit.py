"""WKD: the cost of the teacher's classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import wkd_class_cost, wkd_logit_loss
from kdjax.methods.distillation.logits._wkd_logit import _wkd_logit
from tests.methods.distillation.networks import BATCH, STUDENT, TEACHER, run


@pytest.mark.slow
def test_wkd_reads_its_cost_from_the_teachers_classifier():

  @jax.jit
  def expected(student, teacher):
    cost = wkd_class_cost(teacher.classifier[0], sharpness=2.0)
    values = wkd_logit_loss(
      student.logits, teacher.logits, BATCH["label"], cost, gamma=5.0
    )
    return jnp.mean(values[:13])

  np.testing.assert_allclose(
    run(_wkd_logit(sharpness=2.0, gamma=5.0), STUDENT, TEACHER),
    expected(STUDENT, TEACHER),
    rtol=1e-5,
  )


def test_a_teacher_without_a_classifier_is_named():
  with pytest.raises(ValueError, match="teacher has no classifier"):
    run(_wkd_logit(), STUDENT, TEACHER._replace(classifier=None))
