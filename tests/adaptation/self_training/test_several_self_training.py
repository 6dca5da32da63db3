"""Pseudo-labels, FixMatch, UDA, FlexMatch, DebiasMatch and consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  fixmatch_loss,
  flexmatch_init,
  flexmatch_thresholds,
  linear_ramp_up,
  mean_teacher_update,
  pseudo_label_loss,
  sigmoid_ramp_up,
  uda_loss,
)
from tests import laws

rng = np.random.default_rng(0)
STRONG = 2 * rng.normal(size=(16, 5)).astype(np.float32)
WEAK = 2 * rng.normal(size=(16, 5)).astype(np.float32)
CASES = {
  "fixmatch": laws.Case(
    fixmatch_loss, (STRONG, WEAK), {"threshold": 0.5}, partly=(0,)
  ),
  "uda": laws.Case(
    uda_loss,
    (STRONG, WEAK),
    {"threshold": 0.5, "temperature": 0.7},
    coupled=True,
    partly=(0,),
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
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


@pytest.mark.slow
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
    flexmatch_thresholds(state, WEAK)
  with pytest.raises(ValueError, match="length is -1"):
    sigmoid_ramp_up(0, length=-1)
  with pytest.raises(ValueError, match="decay is 2"):
    mean_teacher_update(jnp.ones(2), jnp.ones(2), decay=2.0)
