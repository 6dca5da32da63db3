"""The row-divergence core: precision, gradients and extremes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.ops import (
  jensen_shannon,
  kl_divergence,
  skew_divergence,
  total_variation,
)
from tests import laws, oracles

INF = np.inf
# Compiled once for all values of the same shape.
KL = jax.jit(kl_divergence)
SKEW = jax.jit(skew_divergence)
JENSEN_SHANNON = jax.jit(jensen_shannon)


def make_logits(seed, rows=16, classes=10, gap=1.0, scale=4.0):
  rng = np.random.default_rng(seed)
  teacher = (scale * rng.normal(size=(rows, classes))).astype(np.float32)
  noise = rng.normal(size=teacher.shape)
  return (teacher + gap * noise).astype(np.float32), teacher


@functools.cache
def compiled():
  def value_and_gradients(student, teacher, temperature):
    return jax.value_and_grad(
      lambda *a: (
        jnp.sum(kl_divergence(a[0], a[1], temperature=a[2])),
        kl_divergence(a[0], a[1], temperature=a[2]),
      ),
      (0, 1, 2),
      has_aux=True,
    )(student, teacher, temperature)

  return jax.jit(value_and_gradients)


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("gap", [1e-3, 1e-2, 0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0])
def test_five_digits_in_float32(temperature, gap, offset):
  student, teacher = make_logits(int(1000 * gap), gap=gap)
  student = student + np.float32(offset)
  (_, value), gradients = compiled()(student, teacher, temperature)
  expected = oracles.kl_of_logits(student, teacher, temperature)
  np.testing.assert_allclose(value, np.float64(expected), rtol=1e-5)
  p = np.exp(oracles.log_softmax(teacher, temperature))
  q = np.exp(oracles.log_softmax(student, temperature))
  ratio = np.log(p) - np.log(q) - expected[:, None]
  for actual, oracle in zip(gradients[:2], (q - p, p * ratio), strict=True):
    oracle = np.float64(oracle / temperature)
    np.testing.assert_allclose(
      actual, oracle, rtol=1e-5, atol=1e-5 * np.abs(oracle).max()
    )


@pytest.mark.slow
def test_extreme_and_masked_rows_are_exact():
  student = np.float32(
    [[1, 2, -INF], [1e4, -1e4, 0], [-1e4, 1e4, 0], [-INF] * 3, [3, 3, 3]]
  )
  teacher = np.float32(
    [[2, 1, -INF], [-1e4, 1e4, 0], [-1e4, 1e4, 0], [-INF] * 3, [7, 7, 7]]
  )
  expected = [(np.e - 1) / (np.e + 1), 2e4, 0, 0, 0]

  @jax.jit
  def program(student):
    gradient = jax.grad(lambda s: jnp.sum(kl_divergence(s, teacher)))
    ones = jnp.ones_like(student)
    return kl_divergence(student, teacher), jax.jvp(
      gradient, (student,), (ones,)
    )

  value, second = program(student)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  _, gradients = compiled()(student, teacher, 2.0)
  for gradient in (*gradients, *second):
    assert np.all(np.isfinite(gradient))


def test_a_class_only_the_student_lacks_costs_infinity():
  student = np.float32([1.0, -INF, 2.0])
  teacher = np.float32([1.0, 1.0, 2.0])
  value_and_grad = jax.jit(jax.value_and_grad(kl_divergence))
  value, gradient = value_and_grad(student, teacher)
  assert value == INF
  assert np.all(np.isfinite(gradient))
  # One whose probability is 0 costs nothing.
  teacher = np.float32([1e4, -1e4, 1e4 + 1])
  value, gradient = value_and_grad(student, teacher)
  assert value == 0
  assert np.all(np.isfinite(gradient))


def test_nan_is_no_mask():
  logits, other = np.float32([[1.0, np.nan, 2.0], [1.0, 1.0, 2.0]])
  assert np.isnan(KL(logits, other))
  assert np.isnan(KL(other, logits))


def test_a_mask_equals_a_slice():
  student, teacher = make_logits(1)
  where = np.arange(10) % 3 > 0
  actual = KL(student, teacher, where=where)
  expected = KL(student[:, where], teacher[:, where])
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


@pytest.mark.slow
def test_differentials_of_every_argument_in_both_modes():
  weights = np.random.default_rng(0).normal(size=(4, 2))

  def divergences(p, q, temperature, skew):
    values = (
      skew_divergence(p, q, skew, temperature),
      kl_divergence(q, p, temperature=temperature),
      jensen_shannon(p, q, skew, temperature),
      total_variation(p, q, temperature),
    )
    return jnp.sum(weights * jnp.stack(values))

  laws.slopes_agree(divergences, (*make_logits(2, 2, 4, scale=1), 1.7, 0.3))


def test_the_hessian_is_the_covariance_of_the_classes():
  student, teacher = make_logits(3, 1, 4, scale=1)
  q = np.exp(oracles.log_softmax(student[0], 2.0))
  expected = (np.diag(q) - np.outer(q, q)) / 4
  hessian = jax.hessian(lambda s: kl_divergence(s, teacher[0], temperature=2.0))
  np.testing.assert_allclose(
    jax.jit(hessian)(student[0]), np.float64(expected), atol=1e-6
  )


@pytest.mark.parametrize("skew", [0.0, 0.3, 1.0])
def test_skew_divergence_equals_its_definition_at_any_gap(skew):
  for gap in (0.1, 3.0, 30.0):
    q_logits, p_logits = make_logits(4, gap=gap)
    p = np.exp(oracles.log_softmax(p_logits))
    q = np.exp(oracles.log_softmax(q_logits))
    expected = oracles.kl(p, skew * p + (1 - skew) * q)
    actual = SKEW(p_logits, q_logits, skew, 1.0)
    np.testing.assert_allclose(
      actual, np.float64(expected), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5, 1.0])
def test_jensen_shannon_equals_its_definition_at_any_gap(beta):
  for gap in (0.1, 3.0, 30.0):
    q_logits, p_logits = make_logits(5, gap=gap)
    p = np.exp(oracles.log_softmax(p_logits))
    q = np.exp(oracles.log_softmax(q_logits))
    m = beta * p + (1 - beta) * q
    expected = beta * oracles.kl(p, m) + (1 - beta) * oracles.kl(q, m)
    if beta in (0, 1):
      expected = oracles.kl(p, q) if beta == 0 else oracles.kl(q, p)
    actual = JENSEN_SHANNON(p_logits, q_logits, beta, 1.0)
    np.testing.assert_allclose(
      actual, np.float64(expected), rtol=1e-5, atol=1e-12
    )


@pytest.mark.slow
def test_a_known_beta_gives_what_a_traced_one_gives():
  """Its programs are shorter; the digits stay, for all gaps and masks."""
  pairs = [make_logits(8, gap=gap) for gap in (0.0, 1e-3, 0.1, 3.0, 30.0)]
  q_logits, p_logits = map(np.concatenate, zip(*pairs, strict=True))
  # Classes that both lack, that one lacks, that are likely or as good as 0.
  p_logits[::4, :2] = q_logits[::4, :2] = -INF
  p_logits[1::4, 0] = q_logits[1::4, 2] = -INF
  p_logits[2::4, 3], p_logits[2::4, 4], q_logits[2::4, 4] = -INF, 1e4, -INF
  q_logits[::5, 5] = np.nan

  def derivatives(p, q, beta):
    value, pull = jax.vjp(lambda *x: jensen_shannon(*x, beta, 2.0), p, q)
    return value, pull(jnp.ones_like(value))

  traced = jax.jit(derivatives)
  for beta in (0.5, 0.3):
    known = jax.jit(functools.partial(derivatives, beta=beta))
    value, gradients = known(p_logits, q_logits)
    expected, others = traced(p_logits, q_logits, beta)
    assert np.isnan(value[::5]).all()
    assert np.isfinite(np.delete(value, np.s_[::5])).all()
    np.testing.assert_allclose(value, expected, rtol=3e-6, atol=1e-12)
    for gradient, other in zip(gradients, others, strict=True):
      # One class on one side makes sums of the size of the value.
      size = 3e-6 * np.abs(other).max(-1) + 1e-7 * expected + 1e-12
      close = np.abs(gradient - other) <= size[:, None]
      assert np.all(close | np.isnan(value)[:, None])


@pytest.mark.slow
def test_disjoint_masks_have_finite_skew_divergence():
  p, q = np.float32([0.0, -INF, 0.0]), np.float32([-INF, 0.0, 0.0])
  value_and_grad = jax.value_and_grad(skew_divergence, (0, 1))
  actual, gradients = jax.jit(value_and_grad)(p, q, 0.5, 1.0)
  np.testing.assert_allclose(actual, 0.5 * np.log(2), rtol=1e-6)
  assert np.all(np.isfinite(gradients))
  actual = JENSEN_SHANNON(p, q, 0.5, 1.0)
  np.testing.assert_allclose(actual, 0.5 * np.log(2), rtol=1e-6)


def test_invariances():
  student, teacher = make_logits(5)
  value = KL(student, teacher, temperature=2.0)
  shifted = KL(student + 3, teacher - 2, temperature=2.0)
  np.testing.assert_allclose(shifted, value, rtol=1e-5)
  order = np.random.default_rng(0).permutation(10)
  permuted = KL(student[:, order], teacher[:, order], temperature=2.0)
  np.testing.assert_allclose(permuted, value, rtol=1e-5)


def test_bfloat16_is_computed_in_float32():
  value = laws.computed_in_float32(KL, *make_logits(6))
  assert value.dtype == jnp.float32


def test_vmap_and_one_compilation():
  student, teacher = make_logits(7)
  expected = KL(student, teacher, temperature=3.0)
  mapped = jax.jit(
    jax.vmap(
      chex.assert_max_traces(
        lambda s, t, u: kl_divergence(s, t, temperature=u), n=1
      ),
      in_axes=(0, 0, None),
    )
  )
  np.testing.assert_allclose(mapped(student, teacher, 3.0), expected, rtol=1e-6)
  mapped(student, teacher, 5.0)


def test_shapes_never_broadcast():
  with pytest.raises(ValueError, match=r"teacher_logits has shape \(1, 3\)"):
    kl_divergence(np.ones((2, 3)), np.ones((1, 3)))
