"""Pseudo-labels, FixMatch, UDA, FlexMatch, DebiasMatch and consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import consistency_loss
from kdjax.adaptation import debias_logits
from kdjax.adaptation import debias_update
from kdjax.adaptation import fixmatch_loss
from kdjax.adaptation import flexmatch_init
from kdjax.adaptation import flexmatch_thresholds
from kdjax.adaptation import flexmatch_update
from kdjax.adaptation import linear_ramp_up
from kdjax.adaptation import mean_teacher_update
from kdjax.adaptation import pseudo_label_loss
from kdjax.adaptation import self_ensembling_balance_loss
from kdjax.adaptation import sigmoid_ramp_up
from kdjax.adaptation import uda_loss
from tests import laws

rng = np.random.default_rng(0)
STRONG = 2 * rng.normal(size=(16, 5)).astype(np.float32)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)
CASES = {
  "fixmatch": laws.Case(fixmatch_loss, (STRONG, WEAK), {"threshold": 0.5}),
  "uda": laws.Case(
    uda_loss,
    (STRONG, WEAK),
    {"threshold": 0.5, "temperature": 0.7},
    coupled=True,
  ),
}


@pytest.mark.parametrize("law", laws.LAWS)
@pytest.mark.parametrize("name", CASES)
def test_law(name, law):
  law(CASES[name])


def softmax(logits):
  e = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_fixmatch_equals_numpy_and_averages_the_whole_batch():
  p, q = softmax(STRONG), softmax(WEAK)
  confident = q.max(-1) >= 0.6
  expected = np.where(confident, -np.log(p[np.arange(16), q.argmax(-1)]), 0.0)
  assert 0 < confident.sum() < 16
  values = fixmatch_loss(STRONG, WEAK, threshold=0.6)
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(
    pseudo_label_loss(STRONG, WEAK, threshold=0.6), values
  )
  own = pseudo_label_loss(STRONG, threshold=0.0)
  np.testing.assert_allclose(own, -np.log(p.max(-1)), rtol=1e-4, atol=1e-6)


def test_a_threshold_that_is_reached_counts():
  even = jnp.zeros((1, 2))
  assert fixmatch_loss(even, even, threshold=0.5) > 0
  assert fixmatch_loss(even, even, threshold=0.51) == 0
  each = jnp.array([0.4, 0.6])
  values = fixmatch_loss(jnp.zeros((2, 2)), jnp.zeros((2, 2)), threshold=each)
  np.testing.assert_array_equal(values > 0, [True, False])


@pytest.mark.parametrize("sharpen", ["student", "teacher"])
@pytest.mark.parametrize("average", ["confident", "all"])
def test_uda_equals_numpy(sharpen, average):
  scale = {"student": (0.6, 1.0), "teacher": (1.0, 0.6)}[sharpen]
  p, q = softmax(STRONG / scale[0]), softmax(WEAK / scale[1])
  confident = softmax(WEAK).max(-1) >= 0.6
  values = np.sum(q * (np.log(q) - np.log(p)), -1) * confident
  expected = values.sum() / (confident.sum() if average == "confident" else 16)
  got = uda_loss(
    STRONG,
    WEAK,
    threshold=0.6,
    temperature=0.6,
    sharpen=sharpen,
    average=average,
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_masked_classes():
  masked = jnp.where(jnp.arange(5) == 2, -jnp.inf, WEAK)
  both = jnp.where(jnp.arange(5) == 2, -jnp.inf, STRONG)

  def loss(strong):
    return jnp.mean(fixmatch_loss(strong, masked, threshold=0.3)) + uda_loss(
      strong, masked, threshold=0.3
    )

  value, gradient = jax.value_and_grad(loss)(both)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  without = np.delete(STRONG, 2, 1), np.delete(WEAK, 2, 1)
  np.testing.assert_allclose(
    value,
    jnp.mean(fixmatch_loss(*without, threshold=0.3))
    + uda_loss(*without, threshold=0.3),
    rtol=1e-5,
  )


@pytest.mark.parametrize("warmup", [True, False])
def test_flexmatch_counts_the_last_confident_labels(warmup):
  state = flexmatch_init(num_examples=20, num_classes=5)
  thresholds = flexmatch_thresholds(WEAK, state, warmup=warmup)
  np.testing.assert_array_equal(thresholds, 0)
  labels = np.full(20, -1)
  update = jax.jit(flexmatch_update)
  draw = np.random.default_rng(1)
  for _ in range(4):
    indices = draw.permutation(20)[:16]
    logits = 2 * draw.normal(size=(16, 5)).astype(np.float32)
    q = softmax(logits)
    confident = q.max(-1) >= 0.6
    labels[indices[confident]] = q.argmax(-1)[confident]
    state = update(logits, state, indices, threshold=0.6)
    np.testing.assert_array_equal(state.labels, labels)
  counts = np.bincount(labels[labels >= 0], minlength=5)
  largest = max(counts.max(), np.sum(labels < 0) if warmup else 0)
  beta = counts / largest
  for mapping, of_beta in {
    "convex": beta / (2 - beta),
    "linear": beta,
    "concave": np.log2(1 + beta),
  }.items():
    thresholds = flexmatch_thresholds(
      WEAK, state, threshold=0.9, warmup=warmup, mapping=mapping
    )
    np.testing.assert_allclose(
      thresholds, 0.9 * of_beta[WEAK.argmax(-1)], rtol=1e-5
    )
  masked = update(WEAK, state, np.arange(16), where=np.zeros(16, bool))
  np.testing.assert_array_equal(masked.labels, state.labels)


def test_debiasing_takes_frequent_classes_back():
  prior = jnp.full(5, 0.2)
  logits = WEAK + 3.0 * (np.arange(5) == 1)
  for _ in range(30):
    prior = debias_update(logits, prior, momentum=0.5)
  np.testing.assert_allclose(prior, softmax(logits).mean(0), rtol=1e-4)
  moved = debias_logits(logits, prior)
  np.testing.assert_allclose(moved, logits - np.log(prior), rtol=1e-5)
  assert np.all(np.isfinite(debias_logits(WEAK, jnp.eye(5)[0])))
  nothing = debias_update(WEAK, prior, where=np.zeros(16, bool))
  np.testing.assert_allclose(nothing, prior, rtol=1e-6)


def test_consistency():
  p, q = softmax(STRONG), softmax(WEAK)
  confident = q.max(-1) >= 0.5
  np.testing.assert_allclose(
    consistency_loss(STRONG, WEAK, threshold=0.5),
    np.sum((p - q) ** 2, -1) * confident,
    rtol=1e-5,
    atol=1e-7,
  )

  def total(a, b, stop):
    return jnp.sum(consistency_loss(a, b, stop_teacher_gradient=stop))

  gradient = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
  stopped, both = gradient(STRONG, WEAK, True), gradient(STRONG, WEAK, False)
  assert not np.any(stopped[1])
  assert np.any(both[1])
  np.testing.assert_allclose(stopped[0], both[0], rtol=1e-6)


def test_balance_is_least_where_the_mean_prediction_is_uniform():
  value = jax.jit(self_ensembling_balance_loss)
  m = softmax(STRONG).mean(0)
  expected = -np.mean(np.log(m) / 5 + 0.8 * np.log(1 - m))
  np.testing.assert_allclose(value(STRONG), expected, rtol=1e-5)
  uniform = value(1e4 * jnp.eye(5))
  assert uniform < value(STRONG)
  gradient = jax.jit(jax.value_and_grad(self_ensembling_balance_loss))
  for logits in (1e4 * STRONG, 0 * STRONG, jnp.full((3, 5), 1.0)):
    for leaf in gradient(logits):
      assert np.all(np.isfinite(leaf))
  collapsed = jnp.tile(jnp.array([[1e4, 0.0]]), (4, 1))
  for leaf in gradient(collapsed):
    assert np.all(np.isfinite(leaf))
  empty, slope = gradient(STRONG, where=np.zeros(16, bool))
  assert empty == 0
  assert not np.any(slope)


def test_schedules_and_the_average():
  assert sigmoid_ramp_up(3, length=0) == linear_ramp_up(3, length=0) == 1
  np.testing.assert_allclose(
    sigmoid_ramp_up(2, length=8), np.exp(-5 * 0.75**2), rtol=1e-6
  )
  teacher = {"w": jnp.ones(3), "n": jnp.array(1)}
  student = {"w": jnp.zeros(3), "n": jnp.array(7)}
  first = mean_teacher_update(teacher, student, step=0)
  np.testing.assert_array_equal(first["w"], 0)
  assert first["n"] == 7
  later = mean_teacher_update(teacher, student, decay=0.9, step=99)
  np.testing.assert_allclose(later["w"], 0.9, rtol=1e-6)
  half = mean_teacher_update(jnp.ones(2, jnp.bfloat16), jnp.zeros(2), decay=0.5)
  assert half.dtype == jnp.bfloat16


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"weak_logits has shape \(16, 4\)"):
    fixmatch_loss(STRONG, WEAK[:, :4])
  with pytest.raises(ValueError, match=r"threshold is 1\.5; expected"):
    fixmatch_loss(STRONG, WEAK, threshold=1.5)
  with pytest.raises(ValueError, match="sharpen is 'both'"):
    uda_loss(STRONG, WEAK, sharpen="both")
  with pytest.raises(ValueError, match="temperature is 0"):
    uda_loss(STRONG, WEAK, temperature=0.0)
  with pytest.raises(TypeError, match="strong_logits has dtype int32"):
    fixmatch_loss(jnp.ones((2, 2), int), jnp.ones((2, 2)))
  state = flexmatch_init(num_examples=3, num_classes=4)
  with pytest.raises(ValueError, match="state has 4 classes; expected 5"):
    flexmatch_thresholds(WEAK, state)
  with pytest.raises(ValueError, match="length is -1"):
    sigmoid_ramp_up(0, length=-1)
  with pytest.raises(ValueError, match="decay is 2"):
    mean_teacher_update(jnp.ones(2), jnp.ones(2), decay=2.0)
