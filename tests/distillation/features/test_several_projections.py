"""Projected, generated and mimicked features."""

import jax
import numpy as np
import pytest

from kdjax.distillation import (
  mgd_loss,
  srd_loss,
  srrl_loss,
  vitkd_loss,
  vkd_loss,
)
from tests import laws

RNG = np.random.default_rng(0)
MAPS, TEACHER_MAPS = RNG.normal(size=(2, 16, 3, 4, 5)).astype(np.float32)
ROWS, TEACHER_ROWS = 2 * RNG.normal(size=(2, 16, 6)).astype(np.float32)
TOKENS, TEACHER_TOKENS = RNG.normal(size=(2, 16, 4, 6)).astype(np.float32)
MASK = RNG.integers(0, 2, (16, 4))
CASES = {
  "srrl": laws.Case(
    lambda maps, teachers, logits, **weights: srrl_loss(
      maps, *teachers[:1], logits, teachers[1], **weights
    ),
    (MAPS, [TEACHER_MAPS, TEACHER_ROWS], ROWS),
    {"alpha": 1.0, "beta": 5.0},
  ),
  "srd": laws.Case(
    srd_loss,
    (ROWS, TEACHER_ROWS),
    {"exponent": 4.0},
    coupled=True,
    # Its slope near 0 is that of the logarithm.
    extremes=(0.0, 1e-4, 1e4),
  ),
  "vkd": laws.Case(vkd_loss, (ROWS, TEACHER_ROWS)),
  "mgd": laws.Case(mgd_loss, (MAPS, TEACHER_MAPS)),
  "vitkd": laws.Case(vitkd_loss, (TOKENS, TEACHER_TOKENS, MASK), partly=(0, 1)),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_srrl_equals_the_paper():
  features = np.float64(MAPS).mean((1, 2)) - np.float64(TEACHER_MAPS).mean(
    (1, 2)
  )
  logits = np.float64(ROWS) - TEACHER_ROWS
  loss = jax.jit(srrl_loss)
  np.testing.assert_allclose(
    loss(MAPS, TEACHER_MAPS, ROWS, TEACHER_ROWS, alpha=2.0, beta=3.0),
    2 * (features**2).mean(1) + 3 * (logits**2).mean(1),
    rtol=1e-4,
  )


def test_srd_equals_the_paper_and_is_finite_for_equal_embeddings():
  total = (np.abs(np.float64(ROWS) - TEACHER_ROWS) ** 3).sum()
  program = jax.jit(jax.value_and_grad(srd_loss))
  value, _ = program(ROWS, TEACHER_ROWS, exponent=3.0)
  np.testing.assert_allclose(value, 2 * np.log(total), rtol=1e-5)
  value, gradient = program(ROWS, ROWS)
  np.testing.assert_allclose(value, 2 * np.log(1e-12), rtol=1e-5)
  np.testing.assert_array_equal(gradient, 0)


def test_vkd_equals_the_paper():
  teacher = np.float64(TEACHER_ROWS)
  mean, variance = teacher.mean(1)[:, None], teacher.var(1)[:, None]
  gap = np.abs(ROWS - (teacher - mean) / np.sqrt(variance + 1e-5))
  terms = np.where(gap < 1, gap**2 / 2, gap - 0.5)
  loss = jax.jit(vkd_loss)
  np.testing.assert_allclose(loss(ROWS, TEACHER_ROWS), terms.mean(1), rtol=1e-4)
  np.testing.assert_allclose(
    loss(ROWS, 7 * TEACHER_ROWS + 3), terms.mean(1), rtol=1e-3
  )


def test_generated_features_cost_the_sum_of_squares():
  squares = np.square(np.float64(MAPS) - TEACHER_MAPS).sum((1, 2, 3))
  values = jax.jit(mgd_loss)(MAPS, TEACHER_MAPS)
  np.testing.assert_allclose(values, squares, rtol=1e-5)
  squares = np.square(np.float64(TOKENS) - TEACHER_TOKENS).sum(2)
  loss = jax.jit(vitkd_loss)
  np.testing.assert_allclose(
    loss(TOKENS, TEACHER_TOKENS, MASK), (squares * MASK).sum(1), rtol=1e-5
  )
  layers = [np.stack([x, 2 * x], 1) for x in (TOKENS, TEACHER_TOKENS)]
  np.testing.assert_allclose(
    loss(*layers, MASK), 5 * (squares * MASK).sum(1), rtol=1e-5
  )


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="teacher_logits has shape"):
    laws.trace(srrl_loss, MAPS, TEACHER_MAPS, ROWS, TEACHER_ROWS[:, :2])
  with pytest.raises(ValueError, match="exponent is -1"):
    laws.trace(srd_loss, ROWS, TEACHER_ROWS, exponent=-1.0)
  with pytest.raises(ValueError, match="mask has shape"):
    laws.trace(vitkd_loss, TOKENS, TEACHER_TOKENS, MASK[:, :3])
  with pytest.raises(ValueError, match="teacher_features has shape"):
    laws.trace(mgd_loss, MAPS, TEACHER_MAPS[:, :2])
