"""AB and OFD: connected pre-activations."""

import functools

import jax
import numpy as np
import pytest

from kdjax import distillation
from kdjax.methods.distillation.features._ab import _ab
from kdjax.methods.distillation.features._ofd import _ofd
from tests.methods.distillation.networks import (
  STAGED,
  STAGED_TEACHER,
  STAGED_WIDE,
  mean,
  pair,
  start_and_apply,
)


def stages(side, names=("f1", "f2")):
  return [
    [getattr(outputs, side)[name] for name in names]
    for outputs in (STAGED, STAGED_TEACHER)
  ]


def test_activation_boundaries_weigh_each_stage_half_of_the_next():
  """Maps of one shape need no connector."""
  params, _, got = start_and_apply(
    _ab(margin=0.5), pair(STAGED, STAGED_TEACHER)
  )
  assert not jax.tree.leaves(params)
  loss = functools.partial(distillation.ab_loss, margin=0.5)
  losses = jax.jit(lambda *stages: [*map(loss, *stages)])
  shallow, deep = losses(*stages("preactivations"))
  np.testing.assert_allclose(got, mean(shallow / 2 + deep), rtol=1e-5)


@pytest.mark.slow
def test_overhaul_connects_normalizes_and_halves():
  params, _, got = start_and_apply(_ofd(), pair(STAGED, STAGED_WIDE))

  @jax.jit
  def loss(student, teacher, normalization):
    margin = distillation.ofd_margin(*normalization)
    return distillation.ofd_loss(student, teacher, margin)

  losses = []
  for i, name in enumerate(("f1", "f2")):
    kernel = params[i]["convolution"]["kernel"][0, 0]
    x = np.float64(STAGED.preactivations[name]) @ np.float64(kernel)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    losses.append(
      loss(
        np.float32(x),
        STAGED_WIDE.preactivations[name],
        STAGED_WIDE.normalizations[name],
      )
    )
  np.testing.assert_allclose(got, mean(losses[0] / 2 + losses[1]), rtol=1e-4)
