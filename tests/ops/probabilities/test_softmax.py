"""The softened softmax against its definition and at its limits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.ops import log_softened_softmax, softened_softmax
from tests import oracles

SOFTEN = jax.jit(softened_softmax)
LOGITS = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) * 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_equals_its_definition(temperature):
  expected = np.exp(LOGITS.astype(np.float64) / temperature)
  expected /= expected.sum(-1, keepdims=True)
  actual = SOFTEN(LOGITS, temperature=temperature)
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


def test_log_equals_its_definition_on_any_axis():
  expected = oracles.log_softmax(LOGITS.T, 3.0).T
  soften = jax.jit(log_softened_softmax, static_argnames="axis")
  actual = soften(LOGITS, temperature=3.0, axis=0)
  np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)


def test_a_mask_equals_a_slice():
  where = np.array([True, True, False, True, False, True, True])
  actual = np.asarray(SOFTEN(LOGITS, temperature=2.0, where=where))
  expected = SOFTEN(LOGITS[:, where], temperature=2.0)
  np.testing.assert_allclose(actual[:, where], expected, rtol=1e-6)
  np.testing.assert_array_equal(actual[:, ~where], 0)


def test_limits_of_the_temperature():
  hot = SOFTEN(LOGITS, temperature=1e8)
  np.testing.assert_allclose(hot, 1 / 7, rtol=1e-5)
  cold = SOFTEN(LOGITS, temperature=1e-4)
  np.testing.assert_array_equal(cold, np.eye(7)[LOGITS.argmax(-1)])


def test_extremes_have_finite_values_and_gradients():
  logits = np.float32([[1e4, -1e4, -np.inf], [-np.inf] * 3, [0.0, 0.0, 0.0]])
  weights = np.float32([1.0, 2.0, 3.0])

  @jax.jit
  def gradients(logits, temperature):
    def total(logits, temperature):
      q = softened_softmax(logits, temperature=temperature)
      return jnp.sum(q * weights[None])

    return jax.grad(total, (0, 1))(logits, temperature)

  value = SOFTEN(logits)
  np.testing.assert_allclose(value, [[1, 0, 0], [0, 0, 0], [1 / 3] * 3])
  for gradient in gradients(logits, 2.0):
    assert np.all(np.isfinite(gradient))


def test_nan_is_no_mask():
  assert np.all(np.isnan(SOFTEN(np.float32([1.0, np.nan]))))


def test_one_temperature_a_row():
  temperature = np.float32([1.0, 2.0, 4.0, 8.0])
  actual = np.asarray(SOFTEN(LOGITS, temperature=temperature))
  for row, logits, t in zip(actual, LOGITS, temperature, strict=True):
    np.testing.assert_allclose(row, SOFTEN(logits, temperature=t), rtol=1e-6)


def test_half_precision_is_computed_in_float32():
  logits = LOGITS.astype(jnp.bfloat16)
  half = SOFTEN(logits, temperature=2.0)
  full = SOFTEN(logits.astype(np.float32), temperature=2.0)
  assert half.dtype == jnp.float32
  np.testing.assert_array_equal(half, full)


def test_a_new_temperature_does_not_recompile():
  soften = jax.jit(
    chex.assert_max_traces(lambda z, t: softened_softmax(z, temperature=t), n=1)
  )
  for temperature in (1.0, 2.0, 3.0):
    soften(LOGITS, temperature)


def test_errors_name_the_argument():
  with pytest.raises(TypeError, match=r"logits has dtype int32; expected floa"):
    softened_softmax(np.arange(3))
  with pytest.raises(TypeError, match="logits is a list"):
    softened_softmax([1.0, 2.0])
  with pytest.raises(
    ValueError, match=r"temperature is 0.0; expected .* above"
  ):
    softened_softmax(LOGITS, temperature=0.0)
  with pytest.raises(ValueError, match=r"temperature has shape \(3,\)"):
    softened_softmax(LOGITS, temperature=np.ones(3))
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    softened_softmax(LOGITS, where=np.ones(3, bool))
