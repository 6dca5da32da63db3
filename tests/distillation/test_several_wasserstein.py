"""WKD: laws, Sinkhorn as in the paper, and its limits."""

import functools

import jax
import numpy as np
import pytest

from kdjax.distillation import wkd_class_cost, wkd_feature_loss, wkd_logit_loss
from tests import laws, oracles

RNG = np.random.default_rng(7)
STUDENT, TEACHER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)
KERNEL = RNG.normal(size=(4, 6)).astype(np.float32)
COST = np.asarray(jax.jit(wkd_class_cost)(KERNEL))
MAPS, TEACHER_MAPS = RNG.normal(size=(2, 16, 4, 6, 3)).astype(np.float32)

CASES = {
  "logit": laws.Case(
    wkd_logit_loss,
    (STUDENT, TEACHER, LABELS, COST),
    {"temperature": 3.0, "gamma": 20.0, "regularization": 0.1},
    shared=(3,),
  ),
  "feature": laws.Case(
    wkd_feature_loss,
    (MAPS, TEACHER_MAPS),
    {"mean_weight": 3.0, "epsilon": 1e-5},
    options={"grid": 2},
  ),
}
LOGIT, FEATURE = (
  jax.jit(wkd_logit_loss),
  jax.jit(wkd_feature_loss, static_argnames="grid"),
)


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def oracle(student, teacher, label, temperature, gamma, epsilon, iterations):
  others = np.arange(6) != label
  p, q = (
    np.exp(oracles.log_softmax(z[others], temperature))
    for z in (teacher, student)
  )
  cost = np.float64(COST)[others][:, others]
  kernel = np.exp(-cost / epsilon)
  u = np.full(5, 0.2)
  for _ in range(iterations):
    v = p / (kernel.T @ u + 1e-8)
    u = q / (kernel @ v + 1e-8)
  plan = u[:, None] * kernel * v
  confidence = np.exp(oracles.log_softmax(teacher))[label]
  log_student = oracles.log_softmax(student)[label]
  return -confidence * log_student + gamma * (plan * cost).sum()


def test_logits_equal_the_paper():
  values = LOGIT(STUDENT, TEACHER, LABELS, COST, temperature=3.0, gamma=20.0)
  expected = [
    oracle(s, t, y, 3.0, 20.0, 0.05, 10)
    for s, t, y in zip(STUDENT, TEACHER, LABELS, strict=True)
  ]
  np.testing.assert_allclose(values, np.float64(expected), rtol=1e-4)


def test_between_two_other_classes_mass_moves_once():
  """With little entropy the cost is what must be moved times how far."""
  student, teacher = STUDENT[:, :3], TEACHER[:, :3]
  labels = np.zeros(16, int)
  p, q = (
    np.exp(oracles.log_softmax(z[:, 1:], 2.0)) for z in (teacher, student)
  )
  cost = np.float32(0.4) * (1 - np.eye(3, dtype=np.float32))
  loss = jax.jit(
    functools.partial(wkd_logit_loss, temperature=2.0, iterations=500)
  )
  with_transport, without = (
    np.asarray(loss(student, teacher, labels, cost, gamma=gamma))
    for gamma in (1.0, 0.0)
  )
  np.testing.assert_allclose(
    with_transport - without,
    np.float64(np.abs(p - q)[:, 0] * 0.4),
    atol=1e-3,
  )


@pytest.mark.slow
def test_tiny_probabilities_are_not_lost():
  """In probability space they would be 0, and their gradients too."""
  student = np.float32([[0.0, 0.0, -900.0, -1000.0]])
  cost = COST[:4, :4]
  gradient = jax.jit(
    jax.grad(
      lambda s: wkd_logit_loss(
        s, student, np.array([0]), cost, temperature=1.0
      )[0]
    )
  )(student)
  assert np.all(np.isfinite(gradient))
  # Two classes leave one other class, which costs nothing to move.
  two = STUDENT[:, :2], TEACHER[:, :2], LABELS % 2, cost[:2, :2]
  value, target = (LOGIT(*two, gamma=gamma) for gamma in (600.0, 0.0))
  np.testing.assert_allclose(value, target, atol=1e-4)


def test_a_label_that_both_exclude_costs_nothing():
  student, teacher = (
    np.where(np.eye(6)[LABELS] == 1, np.float32(-np.inf), z)
    for z in (STUDENT, TEACHER)
  )
  values = LOGIT(student, teacher, LABELS, COST, gamma=600.0)
  both, target = (
    np.asarray(LOGIT(STUDENT, TEACHER, LABELS, COST, gamma=gamma))
    for gamma in (600.0, 0.0)
  )
  np.testing.assert_allclose(values, both - target, rtol=1e-4)


def test_class_cost_equals_the_formula():
  w = np.float64(KERNEL) / np.linalg.norm(np.float64(KERNEL), axis=0)
  expected = 1 - np.exp(-2.0 * (1 - w.T @ w))
  np.testing.assert_allclose(
    jax.jit(wkd_class_cost)(KERNEL, sharpness=2.0),
    expected,
    rtol=1e-4,
    atol=1e-6,
  )


def test_features_equal_the_paper():
  cells = [
    (slice(None), slice(a, a + 2), slice(b, b + 3))
    for a in (0, 2)
    for b in (0, 3)
  ]
  expected = np.zeros(16)
  for cell in cells:
    moments = [
      (
        x[cell].mean((1, 2), np.float64),
        np.sqrt(x[cell].var((1, 2), np.float64, ddof=1) + 1e-5),
      )
      for x in (MAPS, TEACHER_MAPS)
    ]
    (mean_s, std_s), (mean_t, std_t) = moments
    expected += (3 * (mean_s - mean_t) ** 2 + (std_s - std_t) ** 2).sum(-1) / 4
  np.testing.assert_allclose(
    FEATURE(MAPS, TEACHER_MAPS, mean_weight=3.0, grid=2),
    expected,
    rtol=1e-4,
  )


def test_a_position_has_no_variance():
  values = FEATURE(MAPS[:, :1, :1], TEACHER_MAPS[:, :1, :1])
  gap = MAPS[:, 0, 0] - TEACHER_MAPS[:, 0, 0]
  np.testing.assert_allclose(values, 4 * (gap**2).sum(-1), rtol=1e-4)


def test_errors():
  with pytest.raises(ValueError, match="grid is 5; expected at most"):
    laws.trace(wkd_feature_loss, MAPS, TEACHER_MAPS, grid=5)
  with pytest.raises(ValueError, match=r"mean_weight has shape \(3,\)"):
    laws.trace(wkd_feature_loss, MAPS, TEACHER_MAPS, mean_weight=np.ones(3))
  with pytest.raises(ValueError, match="epsilon is 0"):
    laws.trace(wkd_feature_loss, MAPS, TEACHER_MAPS, epsilon=0)
  with pytest.raises(ValueError, match="iterations is 0; expected"):
    laws.trace(wkd_logit_loss, STUDENT, TEACHER, LABELS, COST, iterations=0)
  with pytest.raises(ValueError, match=r"regularization has shape \(6,\)"):
    laws.trace(
      wkd_logit_loss, STUDENT, TEACHER, LABELS, COST, regularization=np.ones(6)
    )
