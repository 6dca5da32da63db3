"""DKD, NKD and USKD: oracles, limits and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import dkd_loss, nkd_loss, soft_target_loss, uskd_loss
from tests import laws, oracles

RNG = np.random.default_rng(1)
STUDENT, TEACHER = (3 * RNG.normal(size=(2, 16, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)


def uskd_of_two(student, weak, labels, **options):
  """USKD without the gradient of its weak classifier."""
  return uskd_loss(student, labels, jax.lax.stop_gradient(weak), **options)


def dkd_and_nkd(student, teacher, labels, gamma, **options):
  """Both in one program."""
  return dkd_loss(student, teacher, labels, **options) + nkd_loss(
    student,
    teacher,
    labels,
    gamma=gamma,
    temperature=options["temperature"],
  )


CASES = {
  "dkd": laws.Case(
    dkd_and_nkd,
    (STUDENT, TEACHER, LABELS),
    {"temperature": 3.0, "alpha": 0.7, "beta": 2.0, "gamma": 1.5},
  ),
  "uskd": laws.Case(
    uskd_of_two,
    (STUDENT, TEACHER, LABELS),
    {"alpha": 0.5, "beta": 0.1, "weak_weight": 0.2},
    coupled=True,
  ),
}
# The soft labels of USKD move with the student, but receive no gradient.
UNEQUAL = ("uskd", laws.gradients_equal_finite_differences)


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES, without=[UNEQUAL]))
def test_law(name, law):
  law(CASES[name])


@jax.jit
def compiled_dkd(student, teacher, labels, temperature, alpha, beta):
  def total(student):
    values = dkd_loss(
      student,
      teacher,
      labels,
      temperature=temperature,
      alpha=alpha,
      beta=beta,
    )
    return jnp.sum(values), values

  (_, values), gradient = jax.value_and_grad(total, has_aux=True)(student)
  return values, gradient


def dkd(student, teacher, labels, temperature=4.0, alpha=1.0, beta=8.0):
  """DKD and the gradient of its sum by the student, as NumPy arrays."""
  return jax.device_get(
    compiled_dkd(student, teacher, labels, temperature, alpha, beta)
  )


NKD, USKD, SOFT = map(jax.jit, (nkd_loss, uskd_loss, soft_target_loss))


def split(logits, labels, temperature):
  """Log-probabilities [labelled, others together], and of the others alone."""
  log_q = oracles.log_softmax(logits, temperature)
  rest = np.array([np.delete(r, y) for r, y in zip(log_q, labels, strict=True)])
  both = [log_q[np.arange(len(labels)), labels], np.logaddexp.reduce(rest, -1)]
  return np.stack(both, -1), oracles.log_softmax(rest)


def oracle_kl(log_p, log_q):
  return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def oracle_dkd(student, teacher, labels, temperature=4.0, alpha=1.0, beta=8.0):
  (q, q_rest), (p, p_rest) = (
    split(z, labels, temperature) for z in (student, teacher)
  )
  value = alpha * oracle_kl(p, q) + beta * oracle_kl(p_rest, q_rest)
  return np.float64(temperature**2 * value)


@pytest.mark.slow
@pytest.mark.parametrize("values", [(4.0, 1.0, 8.0), (1.5, 0.3, 2.0)])
def test_dkd_equals_the_paper(values):
  np.testing.assert_allclose(
    dkd(STUDENT, TEACHER, LABELS, *values)[0],
    oracle_dkd(STUDENT, TEACHER, LABELS, *values),
    rtol=1e-5,
  )


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 8.0)])
def test_dkd_of_close_logits_keeps_its_digits(weights):
  close = TEACHER + np.float32(1e-3) * STUDENT
  np.testing.assert_allclose(
    dkd(close, TEACHER, LABELS, 20.0, *weights)[0],
    oracle_dkd(close, TEACHER, LABELS, 20.0, *weights),
    rtol=2e-5,
  )


@pytest.mark.slow
def test_dkd_with_the_teachers_own_weight_is_kd():
  target, _ = split(TEACHER, LABELS, 4.0)
  np.testing.assert_allclose(
    jax.jit(dkd_loss)(
      STUDENT, TEACHER, LABELS, beta=np.float32(np.exp(target[:, 1]))
    ),
    SOFT(STUDENT, TEACHER),
    rtol=1e-5,
  )


@pytest.mark.parametrize("gap", [200.0, -200.0, 1e4, -1e4])
def test_dkd_at_any_gap(gap):
  """mdistiller's is infinite from 104 on, and its gradient NaN."""
  ahead = (gap * np.eye(6)[LABELS]).astype(np.float32) + TEACHER
  for student, teacher in ((ahead, TEACHER), (TEACHER, ahead)):
    values, gradient = dkd(student, teacher, LABELS, 1.0)
    np.testing.assert_allclose(
      values, oracle_dkd(student, teacher, LABELS, 1.0), rtol=1e-4
    )
    # By the log-odds of the label, the gradient is q_y - p_y.
    q, p = (np.exp(split(z, LABELS, 1.0)[0][:, 0]) for z in (student, teacher))
    np.testing.assert_allclose(
      gradient[np.arange(16), LABELS], np.float64(q - p), atol=1e-5
    )
    assert np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_two_classes_have_no_others():
  student, teacher, labels = STUDENT[:, :2], TEACHER[:, :2], LABELS % 2
  for part in dkd(student, teacher, labels, alpha=0.0):
    np.testing.assert_array_equal(part, 0)
  np.testing.assert_allclose(
    dkd(student, teacher, labels)[0],
    SOFT(student, teacher),
    rtol=1e-5,
  )


@pytest.mark.slow
def test_masked_classes_are_as_if_absent():
  student, teacher = (
    np.concatenate([z, np.full((16, 1), -np.inf, np.float32)], 1)
    for z in (STUDENT, TEACHER)
  )
  values, gradient = dkd(student, teacher, LABELS)
  expected, expected_gradient = dkd(STUDENT, TEACHER, LABELS)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient[:, :6], expected_gradient, atol=1e-6)
  np.testing.assert_array_equal(gradient[:, 6], 0)

  def others(student, teacher):
    values = (
      nkd_loss(student, teacher, LABELS).sum(),
      uskd_loss(student, LABELS),
      uskd_loss(student, LABELS, teacher),
    )
    return sum(values), values

  program = jax.jit(jax.value_and_grad(others, has_aux=True))
  (_, values), gradient = program(student, teacher)
  _, expected = jax.jit(others)(STUDENT, TEACHER)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("only", [True, False])
def test_dkd_with_the_label_alone_or_masked(only):
  keep = (LABELS[:, None] == np.arange(6)) == only
  student, teacher = (
    np.where(keep, z, np.float32(-np.inf)) for z in (STUDENT, TEACHER)
  )
  values, gradient = dkd(student, teacher, LABELS)
  assert np.all(np.isfinite(values))
  assert np.all(np.isfinite(gradient))


def test_a_class_that_only_the_teacher_allows_costs_infinity():
  masked = STUDENT.copy()
  masked[np.arange(16), (LABELS + 1) % 6] = -np.inf
  assert np.all(np.isposinf(dkd(masked, TEACHER, LABELS)[0]))


def test_nkd_equals_the_paper():
  p = np.exp(oracles.log_softmax(TEACHER))[np.arange(16), LABELS]
  (_, q_rest), (_, p_rest) = (split(z, LABELS, 2.0) for z in (STUDENT, TEACHER))
  expected = p * oracles.cross_entropy(STUDENT, LABELS)
  expected -= 0.7 * 4 * (np.exp(p_rest) * q_rest).sum(-1)
  np.testing.assert_allclose(
    NKD(STUDENT, TEACHER, LABELS, temperature=2.0, gamma=0.7),
    np.float64(expected),
    rtol=1e-5,
  )


def oracle_uskd(student, labels, weak, alpha, beta, mu):
  log_q, log_w = oracles.log_softmax(student), oracles.log_softmax(weak)
  rows = np.arange(len(labels))
  q_y = np.exp(log_q[rows, labels])
  soft_target = 1 + q_y**2 - np.mean(q_y**2)
  total = []
  for i, y in enumerate(labels):
    w = np.exp(log_w[i])
    scores = w / (1 - w[y] + 1e-6) + log_q[i] / (1 - log_q[i, y] + 1e-6)
    zipf = np.zeros_like(scores)
    zipf[np.argsort(-scores)] = 1 / np.arange(1, len(scores) + 1)
    zipf, rest = np.delete(zipf, y), np.delete(student[i], y)
    soft = -(zipf / zipf.sum() * oracles.log_softmax(rest)).sum()
    smooth = np.full(len(scores), 0.1 / len(scores))
    smooth[y] += 0.9
    total.append(
      -alpha * soft_target[i] * log_q[i, y]
      + beta * soft
      - mu * (smooth * log_w[i]).sum()
    )
  return np.float64(np.mean(total))


def test_uskd_equals_the_published_formula():
  for values in ((1.0, 0.1, 0.005), (0.5, 2.0, 0.3)):
    np.testing.assert_allclose(
      USKD(
        STUDENT,
        LABELS,
        TEACHER,
        **dict(zip(("alpha", "beta", "weak_weight"), values, strict=True)),
      ),
      oracle_uskd(STUDENT, LABELS, TEACHER, *values),
      rtol=1e-5,
    )


def test_uskd_trains_its_weak_classifier_by_the_smoothed_labels():
  gradient = jax.jit(
    jax.grad(lambda w: uskd_loss(STUDENT, LABELS, w, weak_weight=2.0))
  )(TEACHER)
  smooth = 0.9 * np.eye(6)[LABELS] + 0.1 / 6
  w = np.exp(oracles.log_softmax(TEACHER))
  np.testing.assert_allclose(
    gradient, np.float64(2.0 / 16 * (w - smooth)), atol=1e-6
  )


@pytest.mark.parametrize(
  ("loss", "keywords", "message"),
  [
    (dkd_loss, {"temperature": -1}, r"temperature is -1; expected a finite"),
    (dkd_loss, {"beta": np.ones(3)}, r"beta has shape \(3,\)"),
    (nkd_loss, {"temperature": 0.0}, r"temperature is 0.0; expected a finite"),
  ],
)
def test_errors_name_the_argument(loss, keywords, message):
  with pytest.raises(ValueError, match=message):
    laws.trace(loss, STUDENT, TEACHER, LABELS, **keywords)
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    laws.trace(loss, STUDENT, TEACHER, LABELS[:3])
