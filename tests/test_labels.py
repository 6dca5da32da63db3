"""Labels that are no class: padding costs nothing, mistakes are NaN."""

import jax
import numpy as np
import pytest

from kdjax import distillation
from kdjax.generalization import dael_expert_loss
from kdjax.metrics import negative_log_likelihood
from kdjax.ops import masked_mean

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0])
WHERE = np.array([True, True, False, True, False])
COST = distillation.wkd_class_cost(RNG.normal(size=(4, 4)).astype(np.float32))
OF_BOTH = ("kd_loss", "dkd_loss", "nkd_loss", "ofa_loss", "rld_loss")


def scaled(student, labels):
  return distillation.sdd_loss(
    student[:, None], TEACHER[:, None], labels, temperature=4.0
  )


LOSSES = {
  name: lambda student, labels, name=name: getattr(distillation, name)(
    student, TEACHER, labels
  )
  for name in (*OF_BOTH, "wsld_loss")
} | {
  "virtual_teacher_loss": distillation.virtual_teacher_loss,
  "wkd_logit_loss": lambda student, labels: distillation.wkd_logit_loss(
    student, TEACHER, labels, COST
  ),
  "sdd_loss": scaled,
  "dael_expert_loss": dael_expert_loss,
  "negative_log_likelihood": negative_log_likelihood,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_row_may_hold_any_label(name):
  def run(student, labels):
    values = LOSSES[name](student, labels)
    return masked_mean(values, WHERE), values

  program = jax.jit(jax.value_and_grad(run, has_aux=True))
  (expected, _), wanted = program(STUDENT, LABELS)
  for padding in (255, 4, -1, -100):
    (mean, values), gradient = program(
      STUDENT, np.where(WHERE, LABELS, padding)
    )
    assert mean == expected
    np.testing.assert_array_equal(gradient, wanted)
    np.testing.assert_array_equal(np.isnan(values), ~WHERE)


def test_of_the_batch():
  """USKD weighs rows by the batch's mean, of those that count."""
  program = jax.jit(
    jax.value_and_grad(lambda z, y: distillation.uskd_loss(z, y, where=WHERE))
  )
  expected, wanted = program(STUDENT, LABELS)
  value, gradient = program(STUDENT, np.where(WHERE, LABELS, 255))
  assert value == expected
  np.testing.assert_array_equal(gradient, wanted)
