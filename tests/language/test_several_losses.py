"""Losses of language models: laws, limits and what other codes get wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation, language
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TEACHER, OWN, TEACHER_OWN = RNG.normal(
  size=(4, 16, 4, 6), scale=2.0
).astype(np.float32)
WHERE = RNG.random((16, 4)) < 0.7
WHERE[3] = False
LOG_PROBS, TEACHER_LOG_PROBS = -RNG.gamma(2.0, 3.0, size=(2, 16, 5)).astype(
  np.float32
)
CASES = {
  "akl": laws.Case(
    lambda *a, **o: jnp.mean(language.adaptive_kl_loss(*a, **o), -1),
    (STUDENT, TEACHER),
    {"temperature": 1.5},
    # The head mass moves the border of the tail, where the value jumps.
    extremes=(0.0, 1e-4, 1e4),
  ),
  "uld": laws.Case(
    language.uld_loss, (STUDENT, TEACHER, WHERE, WHERE), partly=(0, 1)
  ),
  "alm": laws.Case(
    lambda *a, **o: jnp.mean(language.alm_loss(*a, **o), -1),
    (LOG_PROBS, TEACHER_LOG_PROBS),
    {"temperature": 10.0},
    extremes=(1e-4, 1e4),
  ),
  "distillm2": laws.Case(
    language.contrastive_skew_loss,
    (STUDENT, TEACHER, OWN, TEACHER_OWN, WHERE, WHERE[::-1].copy()),
    {"skew": 0.1, "beta": 1.3},
    partly=(0, 1, 2, 3),
  ),
}
# Finite differences see what the authors detach: the weights of adaptive KL
# and the student inside the mixture. The recorded gradients are exact there.
PAIRS = [
  x
  for x in laws.pairs(CASES)
  if x.values[0] in ("uld", "alm")
  or x.values[1] is not laws.gradients_equal_finite_differences
]


@pytest.mark.parametrize(("name", "law"), PAIRS)
def test_law(name, law):
  law(CASES[name])


def test_the_head_and_the_tail_of_adaptive_kl_are_those_of_a_loop():
  student, teacher = (
    np.exp(np.float64(x)) / np.exp(np.float64(x)).sum(-1, keepdims=True)
    for x in (STUDENT[:4, 0], TEACHER[:4, 0])
  )
  program = jax.jit(language.adaptive_kl_loss)
  # All mass in the head: the forward KL.
  for head_mass in (0.3, 0.5, 1.0):
    expected = []
    for q, p in zip(student, teacher, strict=True):
      order, mass, gap = np.argsort(p), 0.0, [0.0, 0.0]
      for c in order:
        mass += p[c]
        gap[int(mass <= 1 - head_mass)] += abs(p[c] - q[c])
      head, tail = gap
      forward, reverse = (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()
      expected.append((head * forward + tail * reverse) / (head + tail))
    np.testing.assert_allclose(
      program(STUDENT[:4, 0], TEACHER[:4, 0], head_mass=np.float32(head_mass)),
      expected,
      rtol=1e-5,
    )


def both(student, teacher, where=None):
  """ULD and the contrastive pair, on one text."""
  uld = language.uld_loss(student, teacher, where, where)
  pair = language.contrastive_skew_loss(
    student, teacher, student, teacher, where, where
  )
  return jnp.stack([uld, pair])


@pytest.mark.slow
def test_a_padded_batch_is_its_rows_one_by_one():
  """Whatever the padding holds."""
  where = np.arange(4) < np.array([[4], [2]])
  spoilt = [
    np.where(where[..., None], x[:2], np.float32(np.nan))
    for x in (STUDENT, TEACHER)
  ]

  @jax.jit
  def program(student, teacher):
    def total(student):
      values = both(student, teacher, where)
      return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(student)
    alone = both(student[1:, :2], teacher[1:, :2])
    return gradient, values[:, 1], alone[:, 0]

  gradient, padded, alone = program(*spoilt)
  assert np.all(np.isfinite(gradient))
  np.testing.assert_array_equal(gradient[1, 2:], 0)
  np.testing.assert_allclose(padded, alone, rtol=1e-5)


@pytest.mark.slow
def test_uld_fills_the_smaller_vocabulary_and_pairs_valid_positions():
  small = jnp.log(jnp.array([[[0.5, 0.5], [0.9, 0.1]]]))
  large = jnp.log(jnp.array([[[0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [1, 1, 1]]]))
  where = jnp.array([[False, True]]), jnp.array([[False, True, False]])
  # 0.9, 0.1, 0 beside 0.5, 0.3, 0.2
  np.testing.assert_allclose(
    language.uld_loss(small, large, *where), [0.8], rtol=1e-6
  )


@pytest.mark.slow
def test_contrastive_skew_is_a_weighted_pair_of_known_losses():
  skew = np.linspace(0.0, 1.0, 16, dtype=np.float32)

  @jax.jit
  def program(skew, *logits):
    value = language.contrastive_skew_loss(*logits, skew=skew, beta=0.5)
    expected = jax.vmap(
      lambda a, b, c, d, s: (
        1.5 * distillation.skew_kl_loss(a, b, skew=s).mean()
        + 0.5 * distillation.skew_reverse_kl_loss(c, d, skew=s).mean()
      )
    )(*logits, skew)
    return value, expected

  value, expected = program(skew, STUDENT, TEACHER, OWN, TEACHER_OWN)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.slow
def test_alm_is_least_where_the_likelihoods_are_equal():
  slope = jax.grad(
    lambda x: jnp.sum(language.alm_loss(x, TEACHER_LOG_PROBS, temperature=5.0))
  )
  np.testing.assert_allclose(slope(TEACHER_LOG_PROBS), 0, atol=1e-6)
  assert np.all(slope(0.5 * TEACHER_LOG_PROBS) > 0)


@pytest.mark.slow
def test_a_skew_adapts_between_a_hundredth_and_the_largest():
  gaps = np.array([-0.5, 0.1, 0.185, 0.19, 0.4], np.float32)
  np.testing.assert_allclose(
    language.adaptive_skew(gaps, 0.2),
    np.clip(1 - 0.9 * 0.2 / (gaps + 1e-5), 0.01, 0.1),
    rtol=1e-4,
  )
  where = WHERE[:4, :4]
  student, teacher = LOG_PROBS[:4, :4], TEACHER_LOG_PROBS[:4, :4]
  gap = language.likelihood_gap(student, teacher, where)
  for i in (0, 1, 2):
    means = (x[i][where[i]].mean() for x in (teacher, student))
    teacher_mean, student_mean = map(np.exp, means)
    np.testing.assert_allclose(gap[i], teacher_mean - student_mean, rtol=1e-4)


def test_probability_shift_swaps_and_leaves_ignored_rows():
  logits = TEACHER[:1]
  labels = np.array([[0, 5, -100, int(logits[0, 3].argmax())]])
  shifted = np.asarray(language.probability_shift(logits, labels))[0]
  for t, label in enumerate(labels[0]):
    expected = logits[0, t].copy()
    if label >= 0:
      top = expected.argmax()
      expected[[top, label]] = expected[[label, top]]
    np.testing.assert_array_equal(shifted[t], expected)


@pytest.mark.parametrize(
  ("kind", "expected"),
  [
    ("linear_decay", [0.5, 0.25, 0.0, 0.0]),
    ("linear_growth", [0.0, 0.25, 0.5, 0.5]),
    ("constant", [0.5] * 4),
  ],
)
def test_weights_run_over_the_training(kind, expected):
  schedule = language.weight_schedule(kind, 10, 0.5)
  np.testing.assert_allclose([schedule(x) for x in (0, 5, 10, 12)], expected)


def test_wrong_arguments_are_named():
  for call, text in (
    (
      functools.partial(language.uld_loss, STUDENT, TEACHER[:3]),
      "teacher_logits has shape",
    ),
    (
      functools.partial(
        language.adaptive_kl_loss, STUDENT, TEACHER, head_mass=2.0
      ),
      "head_mass is 2.0",
    ),
    (
      functools.partial(language.weight_schedule, "cosine", 3),
      "kind is 'cosine'",
    ),
  ):
    with pytest.raises(ValueError, match=text):
      call()
