"""Overhaul of feature distillation (OFD)."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from kdjax.distillation import ab_loss, ofd_loss, ofd_margin
from tests import laws

RNG = np.random.default_rng(0)
STUDENT = 2 * RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)
TEACHER = 2 * RNG.normal(size=(16, 3, 4, 5)).astype(np.float32)
MARGIN = np.float32([-0.5, -1.0, -2.0, -0.1, 0.0])
OFD, MARGINS = jax.jit(ofd_loss), jax.jit(ofd_margin)
CASES = {
  "ab": laws.Case(ab_loss, (STUDENT, TEACHER), {"margin": 0.7}),
  "ofd": laws.Case(ofd_loss, (STUDENT, TEACHER, MARGIN), shared=(2,)),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_overhaul_equals_the_paper():
  margined = np.maximum(np.float64(TEACHER), MARGIN)
  counted = ~((margined >= STUDENT) & (margined <= 0))
  expected = np.where(counted, np.square(STUDENT - margined), 0).sum((1, 2, 3))
  values = OFD(STUDENT, TEACHER, MARGIN)
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  np.testing.assert_array_equal(
    OFD(STUDENT, TEACHER, MARGIN.reshape(1, 1, 1, -1)), values
  )


@pytest.mark.parametrize(
  ("mean", "std"), [(0.3, 1.2), (-2.0, -0.5), (2.5, 1.0), (-30.0, 1.0)]
)
def test_margin_is_the_mean_of_what_is_negative(mean, std):
  normal = scipy.stats.norm(mean, abs(std))
  low = mean - 12 * abs(std)
  moment, _ = scipy.integrate.quad(
    lambda x: x * normal.pdf(x), low, 0, points=[min(mean, -1e-3)]
  )
  np.testing.assert_allclose(
    MARGINS(np.float32(mean), np.float32(std)),
    moment / normal.cdf(0),
    rtol=1e-4,
  )


def test_margin_of_channels_that_are_hardly_or_never_negative():
  mean = np.float32([3.2, -1.0, 1.0, 0.0])
  std = np.float32([1.0, 0.0, 0.0, 0.0])
  np.testing.assert_allclose(MARGINS(mean, std), [-3, -1, 0, 0])


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="margin is -1"):
    laws.trace(ab_loss, STUDENT, TEACHER, margin=-1)
  with pytest.raises(ValueError, match="ab_loss: teacher_features has shape"):
    laws.trace(ab_loss, STUDENT, TEACHER[..., :1])
  with pytest.raises(ValueError, match=r"margin has shape \(4,\).*5"):
    laws.trace(ofd_loss, STUDENT, TEACHER, MARGIN[:4])
