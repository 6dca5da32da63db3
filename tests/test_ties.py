"""Losses of absolute differences: what is 0 on both sides moves nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import classifier_discrepancy, mdd_regression_loss
from kdjax.distillation import cc_loss, factor_transfer_loss, kta_loss
from kdjax.generalization import difex_loss

RNG = np.random.default_rng(0)
# As a ReLU leaves them: both are 0 in the same places.
STUDENT, TEACHER = np.float32(
  np.maximum(RNG.normal(size=(6, 8)), 0) * RNG.uniform(0.5, 2, (2, 6, 8))
)


def explored(x):
  halves = jnp.concatenate([x, TEACHER], 1)[None]
  return difex_loss(halves, TEACHER[None], form="norm-1-norm").exploration


def of_maps(x):
  return factor_transfer_loss(x[:, None, None], TEACHER[:, None, None])


LOSSES = {
  "factor_transfer_loss": of_maps,
  "kta_loss": lambda x: kta_loss(x, TEACHER),
  "cc_loss": lambda x: cc_loss(x, TEACHER, form="adjacent"),
  "classifier_discrepancy": lambda x: classifier_discrepancy(x, TEACHER),
  "mdd_regression_loss": lambda x: mdd_regression_loss(
    TEACHER, TEACHER, TEACHER, x
  ),
  "difex_loss": explored,
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_silent_on_both_sides_gets_no_gradient(name):
  gradient = jax.jit(jax.grad(lambda x: LOSSES[name](x).sum()))(STUDENT)
  assert np.any(gradient)
  assert not np.any(gradient[STUDENT == 0])
