"""The laws of a loss, asked of all losses of pairs of modalities."""

import functools

import numpy as np
import pytest

from kdjax import cross_modal
from tests import laws

RNG = np.random.default_rng(0)
# Both modalities of each side.
STUDENT, TEACHER = (
  list(RNG.normal(size=(2, 16, 3)).astype(np.float32)) for _ in range(2)
)
LABELS = np.arange(16) % 3
SCALES = {"student_scale": 3.0, "teacher_scale": 2.0}


def paired(loss, student, teacher, **options):
  return loss(*student, *teacher, **options)


def clip_loss(student, other, **options):
  """With an argument at the teacher's place, which it does not have."""
  del other
  return cross_modal.clip_loss(*student, **options)


def joint(student, teacher, labels, **options):
  """The first arrays are the logits, the second the embeddings."""
  (logits, rows), (their_logits, their_rows) = student, teacher
  return cross_modal.cross_modal_joint_loss(
    logits, their_logits, labels, rows, their_rows, **options
  )


def case(loss, hyper):
  arguments = (STUDENT, TEACHER)
  return laws.Case(
    functools.partial(paired, loss), arguments, hyper, coupled=True
  )


CASES = {
  "clip": laws.Case(
    clip_loss, (STUDENT, TEACHER), {"scale": 3.0}, coupled=True, unused=(1,)
  ),
  "feature": case(cross_modal.clip_feature_loss, {}),
  "relation": case(cross_modal.clip_relation_loss, SCALES),
  "affinity": case(cross_modal.affinity_mimicking_loss, SCALES),
  "interactive": case(cross_modal.clip_interactive_loss, {"scale": 3.0}),
  "gradient": case(cross_modal.clip_gradient_loss, SCALES),
  "joint": laws.Case(
    joint,
    (STUDENT, TEACHER, LABELS),
    {"distillation": 0.5, "alignment": 2.0, "temperature": 2.0},
  ),
  "generalized": laws.Case(
    cross_modal.generalized_distillation_loss,
    (STUDENT[0], TEACHER[0], LABELS),
    {"temperature": 2.0, "imitation": 0.5},
  ),
}


QUICK = {"relation", "gradient", "generalized"}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES, quick=QUICK))
def test_law(name, law):
  law(CASES[name])
