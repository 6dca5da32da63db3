"""CRLD, CS-KD and MLLD: two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import crld_loss, cskd_loss, mlld_loss
from kdjax.methods import create
from kdjax.methods.distillation.logits._crld import _crld
from kdjax.methods.distillation.logits._cskd import _cskd
from kdjax.methods.distillation.logits._mlld import _mlld
from kdjax.ops import cross_entropy, masked_mean
from tests.methods.distillation.networks import (
  BATCH,
  BOTH,
  STUDENT,
  TEACHER,
  in_views,
  value_of,
)

ROLES = ("student", "teacher", "student_strong", "teacher_strong")
OUTPUTS = in_views(STUDENT, TEACHER, ("strong",))
LOGITS = [OUTPUTS[role].logits for role in ROLES]


@pytest.mark.slow
def test_crld_adds_the_cross_entropy_of_the_strong_view():

  @jax.jit
  def expected(logits):
    values = crld_loss(*logits, weak_threshold=0.3)
    return jnp.mean((values + cross_entropy(logits[2], BATCH["label"]))[:13])

  np.testing.assert_allclose(
    value_of(_crld(weak_threshold=0.3), OUTPUTS), expected(LOGITS), rtol=1e-5
  )


@pytest.mark.slow
def test_mlld_weighs_both_views_as_published():

  @jax.jit
  def expected(logits):
    levels = mlld_loss(*logits, where=BATCH["mask"])
    labels = cross_entropy(logits[0], BATCH["label"])
    labels += cross_entropy(logits[2], BATCH["label"])
    return 0.9 * levels + 0.1 * masked_mean(labels, BATCH["mask"])

  value = value_of(create("mlld").objective, OUTPUTS)
  np.testing.assert_allclose(value, expected(LOGITS), rtol=1e-5)


def test_cskd_compares_a_view_of_any_name():
  outputs = in_views(STUDENT, TEACHER, ("other",))
  student = outputs["student"].logits, outputs["student_other"].logits
  expected = jax.jit(cskd_loss)(*student)[:13].mean()
  value = value_of(_cskd(view="other"), outputs)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("objective", "words"),
  [
    (_crld(), "crld_loss reads .*Expected the view 'strong' of the student"),
    (_mlld(), "mlld_loss reads .*Expected the view 'strong' of the student"),
    (_cskd(), "cskd_loss reads .*Expected the view 'partner' of the student"),
  ],
)
def test_a_missing_view_is_named(objective, words):
  with pytest.raises(ValueError, match=words):
    value_of(objective, BOTH)
