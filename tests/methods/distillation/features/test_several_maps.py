"""AT, NST, FSP and KD-SVD: what is compared with what."""

import functools

import jax
import numpy as np
import pytest

from kdjax import distillation
from kdjax.methods.distillation.features._fsp import _fsp
from kdjax.methods.distillation.features._rows import _at, _nst
from tests.methods.distillation.networks import (
  STAGED,
  STAGED_TEACHER,
  mean,
  pair,
  start_and_apply,
)


def stages(side, names=("f1", "f2")):
  return [
    [getattr(outputs, side)[name] for name in names]
    for outputs in (STAGED, STAGED_TEACHER)
  ]


@pytest.mark.parametrize(
  ("objective", "loss"),
  [
    (
      _at(power=1.0),
      functools.partial(distillation.at_loss, power=1),
    ),
    (_nst(), distillation.nst_loss),
  ],
)
def test_stages_without_the_stem_are_summed(objective, loss):
  *_, got = start_and_apply(objective, pair(STAGED, STAGED_TEACHER))
  losses = jax.jit(lambda *stages: [*map(loss, *stages)])
  expected = mean(sum(losses(*stages("features"))))
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_fsp_starts_at_the_stem():
  *_, got = start_and_apply(_fsp(), pair(STAGED, STAGED_TEACHER))
  student, teacher = stages("features", ("f0", "f1", "f2"))
  loss = distillation.fsp_loss
  expected = jax.jit(lambda s, t: loss(s[:2], t[:2]) + loss(s[1:], t[1:]))(
    student, teacher
  )
  np.testing.assert_allclose(got, mean(expected), rtol=1e-5)
