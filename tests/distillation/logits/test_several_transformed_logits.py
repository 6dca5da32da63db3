"""LSKD, TTM, WTTM and OFA: oracles, limits and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import (
  lskd_loss,
  ofa_loss,
  soft_target_loss,
  standardize_logits,
  ttm_loss,
  wttm_loss,
)
from tests import laws, oracles

RNG = np.random.default_rng(2)
STUDENT, TEACHER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def both_ttm(student, teacher, **options):
  """TTM and WTTM in one program."""
  return ttm_loss(student, teacher, **options) + wttm_loss(
    student, teacher, **options
  )


def every_loss(student, teacher, labels, *, gamma, eps, temperature):
  """All of them in one program."""
  return (
    both_ttm(student, teacher, gamma=gamma)
    + ofa_loss(student, teacher, labels, eps=eps)
    + lskd_loss(student, teacher, temperature=temperature)
  )


CASE = laws.Case(
  every_loss,
  (STUDENT, TEACHER, LABELS),
  {"gamma": 0.3, "eps": 1.5, "temperature": 2.0},
)


@pytest.mark.parametrize(("name", "law"), laws.pairs({"mlld": CASE}))
def test_law(name, law):
  law(CASE)


LSKD, TTM, WTTM, OFA, SOFT, STANDARDIZE = map(
  jax.jit,
  (
    lskd_loss,
    ttm_loss,
    wttm_loss,
    ofa_loss,
    soft_target_loss,
    standardize_logits,
  ),
)


def standardized(logits):
  logits = np.asarray(logits, np.longdouble)
  mean = logits.mean(-1, keepdims=True)
  return (logits - mean) / (1e-7 + logits.std(-1, ddof=1, keepdims=True))


def test_lskd_equals_the_paper():
  expected = oracles.kl_of_logits(
    standardized(STUDENT), standardized(TEACHER), 3.0
  )
  np.testing.assert_allclose(
    LSKD(STUDENT, TEACHER, temperature=3.0),
    np.float64(9 * expected),
    rtol=2e-5,
  )


def test_lskd_sees_neither_location_nor_scale():
  np.testing.assert_allclose(
    LSKD(7 * STUDENT + 3, 0.1 * TEACHER - 5),
    LSKD(STUDENT, TEACHER),
    rtol=1e-4,
  )


def test_standardized_logits_leave_masked_classes_out():
  masked = np.concatenate([STUDENT, np.full((16, 1), -np.inf)], 1)

  def program(logits):
    values = standardize_logits(logits)
    return jnp.sum(jnp.square(values[:, :3])), values

  (value, actual), gradient = jax.device_get(
    jax.jit(jax.value_and_grad(program, has_aux=True))(np.float32(masked))
  )
  expected = standardized(STUDENT)
  np.testing.assert_allclose(
    value, np.float64(np.square(expected[:, :3]).sum()), rtol=1e-5
  )
  assert np.all(np.isfinite(gradient))
  np.testing.assert_allclose(actual[:, :6], np.float64(expected), rtol=1e-5)
  np.testing.assert_array_equal(actual[:, 6], -np.inf)


def test_one_class_and_equal_logits_become_zero():
  for shape in ((2, 1), (2, 5)):
    np.testing.assert_array_equal(STANDARDIZE(np.ones(shape)), 0)


def test_ttm_and_wttm_equal_the_paper():
  gamma = 0.3
  p = np.exp(oracles.log_softmax(TEACHER)) ** gamma
  total = p.sum(-1)
  expected = oracles.kl(
    p / total[:, None], np.exp(oracles.log_softmax(STUDENT))
  )
  np.testing.assert_allclose(
    TTM(STUDENT, TEACHER, gamma=gamma), np.float64(expected), rtol=1e-5
  )
  np.testing.assert_allclose(
    WTTM(STUDENT, TEACHER, gamma=gamma),
    np.float64(total * expected),
    rtol=1e-5,
  )


def test_ttm_without_transformation_is_kd_at_temperature_one():
  expected = SOFT(STUDENT, TEACHER, temperature=1.0)
  for loss in (TTM, WTTM):
    np.testing.assert_allclose(
      loss(STUDENT, TEACHER, gamma=1.0), expected, rtol=1e-5
    )


@pytest.mark.parametrize("eps", [0.5, 1.0, 2.0])
def test_ofa_equals_the_paper(eps):
  p, target = np.exp(oracles.log_softmax(TEACHER)), np.eye(6)[LABELS]
  weights = (p + target) ** eps - target
  expected = -(weights * oracles.log_softmax(STUDENT)).sum(-1)
  np.testing.assert_allclose(
    OFA(STUDENT, TEACHER, LABELS, eps=eps),
    np.float64(expected),
    rtol=1e-5,
  )


@pytest.mark.slow
def test_masked_classes_are_as_if_absent():
  def widened(logits):
    masked = np.full((16, 1), -np.inf, np.float32)
    return np.concatenate([logits, masked], 1)

  def total(student, teacher):
    return jnp.sum(every_loss(student, teacher, LABELS, **CASE.hyper))

  value, gradient = jax.jit(jax.value_and_grad(total))(
    widened(STUDENT), widened(TEACHER)
  )
  arguments = STUDENT, TEACHER, LABELS
  # The mean of the batch, of the program that the laws have compiled.
  expected = 16 * CASE.run(arguments, where=np.ones(16, bool))[0]
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  ("loss", "keywords", "message"),
  [
    (lskd_loss, {"temperature": -1}, r"temperature is -1; expected a finite"),
    (ttm_loss, {"gamma": 0.0}, r"gamma is 0.0; expected a finite"),
    (wttm_loss, {"gamma": np.ones(3)}, r"gamma has shape \(3,\)"),
  ],
)
def test_errors_name_the_argument(loss, keywords, message):
  with pytest.raises(ValueError, match=message):
    laws.trace(loss, STUDENT, TEACHER, **keywords)


def test_errors_of_ofa():
  with pytest.raises(ValueError, match="eps is -2; expected a finite"):
    laws.trace(ofa_loss, STUDENT, TEACHER, LABELS, eps=-2)
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    laws.trace(ofa_loss, STUDENT, TEACHER, LABELS[:3])
