"""The laws of a loss, asked of all losses of continual learning."""

import functools

import numpy as np
import pytest

from kdjax import continual
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, PAST = RNG.normal(size=(2, 16, 5)).astype(np.float32)
LABELS = np.arange(16) % 5
OLD = np.array([True, True, True, False, False])
MAPS, PAST_MAPS = (
  [RNG.normal(size=(16, s, s, 2)).astype(np.float32) for s in (3, 2)]
  for _ in range(2)
)


def margin_loss(cosines, past, labels, new_classes, *, margin):
  """With an argument at the teacher's place, which it does not have."""
  del past
  return continual.lucir_margin_loss(
    cosines, labels, new_classes, margin=margin
  )


CASES = {
  "lwf": laws.Case(
    continual.lwf_loss,
    (STUDENT, PAST, OLD),
    {"temperature": 2.0},
    shared=(2,),
  ),
  "icarl": laws.Case(
    continual.icarl_loss, (STUDENT, PAST, LABELS, OLD), shared=(3,)
  ),
  "der": laws.Case(continual.der_loss, (STUDENT, PAST)),
  "fdr": laws.Case(continual.fdr_loss, (STUDENT, PAST)),
  "pod": laws.Case(continual.pod_loss, (MAPS, PAST_MAPS)),
  "lucir": laws.Case(continual.lucir_loss, (STUDENT, PAST)),
  "lucir_margin": laws.Case(
    margin_loss,
    (STUDENT, PAST, LABELS, ~OLD),
    {"margin": 0.5},
    shared=(3,),
    partly=(0,),
    unused=(1,),
  ),
}


QUICK = {"icarl", "pod"}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES, quick=QUICK))
def test_law(name, law):
  law(CASES[name])


def test_bias_correction_of_masked_logits_has_finite_gradients():
  logits = STUDENT.copy()
  logits[0, 3] = -np.inf
  corrected = continual.bic_logits(logits, ~OLD, scale=0.0, shift=1.0)
  expected = np.where(OLD, logits, np.where(logits == -np.inf, logits, 1.0))
  np.testing.assert_array_equal(corrected, expected)
  laws.slopes_agree(
    lambda z, scale, shift: (
      continual.bic_logits(z, ~OLD, scale=scale, shift=shift) ** 2
    ).sum(),
    (STUDENT, 0.7, 0.1),
  )


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"past_logits has shape \(4, 5\)"):
    continual.lwf_loss(STUDENT, PAST[:4])
  with pytest.raises(ValueError, match="num_negatives is 6; expected at most"):
    continual.lucir_margin_loss(STUDENT, LABELS, OLD, num_negatives=6)
  for stages, others, message in (
    ([], [], "student_features is list; expected a list of maps"),
    (MAPS, MAPS[:1], "2 stages and past_features 1"),
    (MAPS, MAPS[::-1], r"past_features\[0\] has shape"),
    ([STUDENT], [PAST], r"student_features\[0\] has shape \(16, 5\)"),
  ):
    with pytest.raises(ValueError, match=message):
      continual.pod_loss(stages, others)
  bare = functools.partial(continual.pod_loss, [np.ones((1, 2, 2, 1), int)])
  with pytest.raises(TypeError, match="expected float"):
    bare([np.ones((1, 2, 2, 1), int)])
