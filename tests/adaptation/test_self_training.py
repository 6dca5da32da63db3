"""Pseudo-labels, FixMatch, UDA, FlexMatch, DebiasMatch and consistency."""

import functools

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

  @jax.jit
  def run(strong, weak):
    return (
      fixmatch_loss(strong, weak, threshold=0.6),
      pseudo_label_loss(strong, weak, threshold=0.6),
      pseudo_label_loss(strong, threshold=0.0),
    )

  values, same, own = run(STRONG, WEAK)
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(same, values)
  np.testing.assert_allclose(own, -np.log(p.max(-1)), rtol=1e-4, atol=1e-6)


def test_a_threshold_that_is_reached_counts():
  even = np.zeros((3, 2), np.float32)
  each = np.float32([0.4, 0.5, 0.51])
  values = jax.jit(fixmatch_loss)(even, even, threshold=each)
  np.testing.assert_array_equal(np.asarray(values) > 0, [True, True, False])
  one = jax.jit(functools.partial(fixmatch_loss, threshold=0.5))
  assert np.all(np.asarray(one(even, even)) > 0)


@pytest.mark.parametrize("sharpen", ["student", "teacher"])
@pytest.mark.parametrize("average", ["confident", "all"])
def test_uda_equals_numpy(sharpen, average):
  scale = {"student": (0.6, 1.0), "teacher": (1.0, 0.6)}[sharpen]
  p, q = softmax(STRONG / scale[0]), softmax(WEAK / scale[1])
  confident = softmax(WEAK).max(-1) >= 0.6
  values = np.sum(q * (np.log(q) - np.log(p)), -1) * confident
  expected = values.sum() / (confident.sum() if average == "confident" else 16)
  form = functools.partial(uda_loss, sharpen=sharpen, average=average)
  got = jax.jit(form)(STRONG, WEAK, threshold=0.6, temperature=0.6)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_masked_classes():
  strong, weak = (
    np.where(np.arange(5) == 2, -np.inf, x) for x in (STRONG, WEAK)
  )

  @jax.jit
  @jax.value_and_grad
  def loss(strong, weak):
    return jnp.mean(fixmatch_loss(strong, weak, threshold=0.3)) + uda_loss(
      strong, weak, threshold=0.3
    )

  value, gradient = loss(strong, weak)
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))
  without = np.delete(STRONG, 2, 1), np.delete(WEAK, 2, 1)
  np.testing.assert_allclose(value, loss(*without)[0], rtol=1e-5)


@pytest.mark.parametrize("warmup", [True, False])
def test_flexmatch_counts_the_last_confident_labels(warmup):
  state = flexmatch_init(num_examples=20, num_classes=5)

  @jax.jit
  def run(state):
    """The thresholds of each mapping."""
    return {
      mapping: flexmatch_thresholds(
        WEAK, state, threshold=0.9, warmup=warmup, mapping=mapping
      )
      for mapping in ("convex", "linear", "concave")
    }

  for thresholds in run(state).values():
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
  result = run(state)
  for mapping, of_beta in {
    "convex": beta / (2 - beta),
    "linear": beta,
    "concave": np.log2(1 + beta),
  }.items():
    np.testing.assert_allclose(
      result[mapping], 0.9 * of_beta[WEAK.argmax(-1)], rtol=1e-5
    )
  masked = update(
    WEAK, state, np.arange(16), threshold=0.6, where=np.zeros(16, bool)
  )
  np.testing.assert_array_equal(masked.labels, state.labels)


def test_debiasing_takes_frequent_classes_back():
  prior = np.full(5, 0.2, np.float32)
  logits = WEAK + np.float32(3.0) * (np.arange(5) == 1)
  update, shift = jax.jit(debias_update), jax.jit(debias_logits)
  every = np.ones(16, bool)
  for _ in range(30):
    prior = update(logits, prior, momentum=0.5, where=every)
  np.testing.assert_allclose(prior, softmax(logits).mean(0), rtol=1e-4)
  moved = shift(logits, prior)
  np.testing.assert_allclose(moved, logits - np.log(prior), rtol=1e-5)
  assert np.all(np.isfinite(shift(WEAK, np.eye(5, dtype=np.float32)[0])))
  nothing = update(WEAK, prior, momentum=0.5, where=~every)
  np.testing.assert_allclose(nothing, prior, rtol=1e-6)


def test_consistency():
  p, q = softmax(STRONG), softmax(WEAK)
  confident = q.max(-1) >= 0.5

  @functools.partial(jax.jit, static_argnums=2)
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def run(a, b, stop):
    values = consistency_loss(a, b, threshold=0.5, stop_teacher_gradient=stop)
    return jnp.sum(values), values

  stopped, values = run(STRONG, WEAK, True)
  both, _ = run(STRONG, WEAK, False)
  np.testing.assert_allclose(
    values, np.sum((p - q) ** 2, -1) * confident, rtol=1e-5, atol=1e-7
  )
  assert not np.any(stopped[1])
  assert np.any(both[1])
  np.testing.assert_allclose(stopped[0], both[0], rtol=1e-6)


def test_balance_is_least_where_the_mean_prediction_is_uniform():
  gradient = jax.jit(jax.value_and_grad(self_ensembling_balance_loss))
  every = np.ones(16, bool)
  m = softmax(STRONG).mean(0)
  expected = -np.mean(np.log(m) / 5 + 0.8 * np.log(1 - m))
  value, _ = gradient(STRONG, where=every)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  # Each class is sure as often as any other.
  uniform, _ = gradient(
    np.float32(1e4 * np.eye(5)[np.arange(16) % 5]), where=np.arange(16) < 15
  )
  assert uniform < value
  collapsed = np.float32(1e4 * (np.arange(5) == 0) * np.ones((16, 1)))
  for logits in (1e4 * STRONG, 0 * STRONG, 0 * STRONG + 1, collapsed):
    for leaf in gradient(logits, where=every):
      assert np.all(np.isfinite(leaf))
  empty, slope = gradient(STRONG, where=~every)
  assert empty == 0
  assert not np.any(slope)
  # Without a mask, and of two classes.
  plain = jax.jit(jax.value_and_grad(self_ensembling_balance_loss))
  for leaf in plain(collapsed[:, :2]):
    assert np.all(np.isfinite(leaf))


def test_schedules_and_the_average():
  assert sigmoid_ramp_up(3, length=0) == linear_ramp_up(3, length=0) == 1
  np.testing.assert_allclose(
    sigmoid_ramp_up(2, length=8), np.exp(-5 * 0.75**2), rtol=1e-6
  )
  teacher = {"w": np.ones(3, np.float32), "n": np.array(1)}
  student = {"w": np.zeros(3, np.float32), "n": np.array(7)}
  update = jax.jit(mean_teacher_update)
  first = update(teacher, student, decay=0.9, step=0)
  np.testing.assert_array_equal(first["w"], 0)
  assert first["n"] == 7
  later = update(teacher, student, decay=0.9, step=99)
  np.testing.assert_allclose(later["w"], 0.9, rtol=1e-6)
  half = update(jnp.ones(2, jnp.bfloat16), jnp.zeros(2), decay=0.5)
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
