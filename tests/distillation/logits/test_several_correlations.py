"""DIST and MLLD: oracles, masks and limits."""

import jax
import numpy as np
import pytest

from kdjax.distillation import (
  batch_correlation_loss,
  class_correlation_loss,
  dist_loss,
  mlld_loss,
)
from tests import laws, oracles

RNG = np.random.default_rng(3)
STUDENT, TEACHER, STRONG, TEACHER_STRONG = (
  3 * RNG.normal(size=(4, 16, 6))
).astype(np.float32)


def every_level(student, teacher, strong, teacher_strong, *, rate, **options):
  """MLLD and its two relations alone, without the strong view's gradient."""
  relation = {k: options[k] for k in ("where", "axis_name") if k in options}
  return (
    mlld_loss(
      student, teacher, jax.lax.stop_gradient(strong), teacher_strong, **options
    )
    + class_correlation_loss(student, teacher, temperature=rate, **relation)
    + batch_correlation_loss(student, teacher, temperature=rate, **relation)
  )


CASES = {
  "dist": laws.Case(
    dist_loss,
    (STUDENT, TEACHER),
    {"temperature": 3.0, "beta": 0.7, "gamma": 2.0},
    coupled=True,
  ),
  "mlld": laws.Case(
    every_level,
    (STUDENT, TEACHER, STRONG, TEACHER_STRONG),
    {"temperatures": np.array([2.0, 5.0]), "percentile": 60.0, "rate": 3.0},
    coupled=True,
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


DIST, MLLD = jax.jit(dist_loss), jax.jit(mlld_loss)


def softmax(logits, temperature):
  return np.exp(oracles.log_softmax(logits, temperature))


def pearson(x, y):
  x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
  norms = (
    np.linalg.norm(x.astype(float), axis=-1),
    np.linalg.norm(y.astype(float), axis=-1),
  )
  return (x * y).sum(-1) / (norms[0] * norms[1] + 1e-8)


def oracle_dist(student, teacher, temperature, beta, gamma):
  q, p = softmax(student, temperature), softmax(teacher, temperature)
  value = beta * (1 - pearson(q, p).mean())
  value += gamma * (1 - pearson(q.T, p.T).mean())
  return np.float64(temperature**2 * value)


@pytest.mark.parametrize("values", [(4.0, 1.0, 1.0), (1.0, 2.0, 0.3)])
def test_dist_equals_the_paper(values):
  names = ("temperature", "beta", "gamma")
  np.testing.assert_allclose(
    DIST(STUDENT, TEACHER, **dict(zip(names, values, strict=True))),
    oracle_dist(STUDENT, TEACHER, *values),
    rtol=1e-5,
  )


def test_dist_of_close_logits_keeps_digits():
  close = TEACHER + np.float32(0.01) * STUDENT
  np.testing.assert_allclose(
    DIST(close, TEACHER, temperature=4.0, beta=1.0, gamma=1.0),
    oracle_dist(close, TEACHER, 4.0, 1.0, 1.0),
    rtol=1e-3,
  )


def test_dist_of_one_example_has_no_relation_between_examples():
  np.testing.assert_allclose(
    DIST(STUDENT[:1], TEACHER[:1], beta=0.0), 16.0, rtol=1e-6
  )


def test_float32_stays_float32_where_float64_is_enabled():
  with jax.enable_x64(True):
    assert laws.trace(dist_loss, STUDENT, TEACHER).dtype == np.float32


def levels(student, teacher, temperature, examples=True, classes=True):
  """The three terms of MLLD, masked."""
  q, p = softmax(student, temperature), softmax(teacher, temperature)
  count = len(q)
  examples, classes = (
    np.broadcast_to(mask, size)
    for mask, size in ((examples, count), (classes, q.shape[1]))
  )
  instance = (examples * temperature**2 * oracles.kl(p, q)).sum() / count
  of_class = np.square(q.T @ q - p.T @ p) / q.shape[1]
  of_batch = np.square(q @ q.T - p @ p.T) / count
  return instance, (classes * of_class).sum(), (examples * of_batch).sum()


def test_the_relations_equal_the_paper():
  _, of_class, of_batch = map(float, levels(STUDENT, TEACHER, 3.0))

  @jax.jit
  def relations(student, teacher):
    return [
      loss(student, teacher, temperature=3.0)
      for loss in (class_correlation_loss, batch_correlation_loss)
    ]

  np.testing.assert_allclose(
    relations(STUDENT, TEACHER), [of_class, of_batch], rtol=1e-5
  )


@pytest.mark.parametrize("percentile", [50.0, 30.0, 100.0])
def test_mlld_equals_the_paper(percentile):
  sure = softmax(TEACHER, 1.0)
  confidence, mass = sure.max(-1).astype(float), sure.sum(0).astype(float)
  examples = confidence <= np.percentile(confidence, percentile)
  classes = mass <= np.percentile(mass, percentile)
  pool = (2.0, 3.0, 4.0, 5.0, 6.0)
  weak = sum(sum(levels(STUDENT, TEACHER, t, examples, classes)) for t in pool)
  np.testing.assert_allclose(
    MLLD(STUDENT, TEACHER, percentile=percentile), float(weak), rtol=1e-5
  )
  strong = sum(levels(STRONG, TEACHER_STRONG, t)[0] for t in pool)
  np.testing.assert_allclose(
    MLLD(STUDENT, TEACHER, STRONG, TEACHER_STRONG, percentile=percentile),
    float(weak + strong),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ("loss", "keywords", "message"),
  [
    (dist_loss, {"temperature": 0}, "temperature is 0; expected a finite"),
    (dist_loss, {"beta": np.ones(3)}, r"beta has shape \(3,\)"),
    (mlld_loss, {"temperatures": (4.0, -1.0)}, "temperatures is"),
    (mlld_loss, {"percentile": 101}, "percentile is 101"),
    (mlld_loss, {"student_strong_logits": STRONG}, "both or neither"),
    (dist_loss, {"where": np.ones(3, bool)}, r"where has shape \(3,\)"),
  ],
)
def test_errors_name_the_argument(loss, keywords, message):
  with pytest.raises(ValueError, match=message):
    laws.trace(loss, STUDENT, TEACHER, **keywords)
