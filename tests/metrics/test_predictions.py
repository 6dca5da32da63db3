"""accuracy, agreement and negative_log_likelihood against NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.metrics import accuracy, agreement, entropy, negative_log_likelihood

# Compiled once for all values of the same shape.
ACCURACY, AGREEMENT, NLL = map(
  jax.jit, (accuracy, agreement, negative_log_likelihood)
)


def _sample(batch=(64,), classes=7, scale=3.0):
  rng = np.random.default_rng(0)
  logits = scale * rng.normal(size=(*batch, classes))
  return logits.astype(np.float32), rng.integers(classes, size=batch)


def _nll(logits, labels):
  """The definition, in long double where the platform has it."""
  logits = np.asarray(logits, np.longdouble)
  gaps = logits - np.take_along_axis(logits, labels[..., None], -1)
  np.put_along_axis(gaps, labels[..., None], -np.inf, -1)
  return np.log1p(np.exp(gaps).sum(-1))


def test_accuracy_and_agreement_are_what_numpy_counts():
  logits, labels = _sample((5, 4))
  teacher, _ = _sample((5, 4), scale=1.0)
  teacher = teacher[::-1]
  hits = ACCURACY(logits, labels)
  assert hits.dtype == jnp.float32
  np.testing.assert_array_equal(hits, logits.argmax(-1) == labels)
  same = AGREEMENT(logits, teacher)
  np.testing.assert_array_equal(same, logits.argmax(-1) == teacher.argmax(-1))


def test_masked_classes_never_win():
  logits, other = np.float32(
    [[[-np.inf, -1e4, -2e4]], [[-np.inf, 1e4, -np.inf]]]
  )
  assert ACCURACY(logits, np.array([1])) == 1.0
  assert AGREEMENT(logits, other) == 1.0


def test_negative_log_likelihood_is_the_definition():
  logits, labels = _sample((5, 4))
  got = NLL(logits, labels)
  np.testing.assert_allclose(got, _nll(logits, labels), rtol=2e-6)


@pytest.mark.parametrize("gap", [-1e4, -30.0, -1.0, 1e-3, 12.0, 30.0, 80.0])
@pytest.mark.parametrize("offset", [0.0, 4096.0])
def test_negative_log_likelihood_keeps_its_digits(gap, offset):
  logits = np.array([[offset, offset + gap]], np.float32)
  labels = np.array([1])
  got = NLL(logits, labels)
  np.testing.assert_allclose(got, _nll(logits, labels), rtol=2e-6)


def test_negative_log_likelihood_at_the_extremes():
  inf = np.inf
  logits = np.float32([[-inf, 0.0, 1.0], [0.0, -inf, -inf], [0.0, -inf, 0.0]])
  got = NLL(logits, np.array([1, 0, 1]))
  np.testing.assert_allclose(got, [np.log1p(np.e), 0.0, np.inf], rtol=1e-6)
  assert NLL(np.ones((1, 1), np.float32), np.array([0])) == 0.0


def test_gradient_is_softmax_minus_label():
  logits, labels = _sample()
  gradient = jax.jit(
    jax.grad(lambda z: negative_log_likelihood(z, labels).sum())
  )(logits)
  odds = np.exp(np.float64(logits))
  expected = odds / odds.sum(-1, keepdims=True) - np.eye(7)[labels]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("metric", [accuracy, negative_log_likelihood])
def test_half_precision_vmap_and_batch_axes(metric):
  logits, labels = _sample((6, 4))
  half = logits.astype(jnp.bfloat16)
  value, wide, mapped = jax.jit(
    lambda half, wide, labels: (
      metric(half, labels),
      metric(wide, labels),
      jax.vmap(metric)(half, labels),
    )
  )(half, half.astype(np.float32), labels)
  assert value.dtype == jnp.float32
  np.testing.assert_array_equal(value, wide)
  np.testing.assert_array_equal(value, mapped)


def test_errors_name_the_argument():
  logits, labels = _sample((4,))
  with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
    jax.eval_shape(accuracy, logits, labels[:3])
  with pytest.raises(TypeError, match="labels has dtype float32"):
    jax.eval_shape(negative_log_likelihood, logits, labels.astype(np.float32))
  with pytest.raises(ValueError, match=r"teacher_logits has shape \(1, 7\)"):
    jax.eval_shape(agreement, logits, logits[:1])


def test_a_diverged_model_is_never_right():
  bad = np.float32([[np.nan, 1.0], [2.0, 1.0]])
  np.testing.assert_array_equal(ACCURACY(bad, np.array([0, 0])), [0, 1])
  np.testing.assert_array_equal(AGREEMENT(bad, bad), [0, 1])


def test_entropy_is_the_definition():
  logits, _ = _sample((5, 4))
  scaled = np.float64(logits) / 4.0
  q = np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)
  got = jax.jit(entropy)(logits, temperature=4.0)
  np.testing.assert_allclose(got, -(q * np.log(q)).sum(-1), rtol=1e-5)
  # A class without mass has no entropy, nor a gradient that is NaN.
  extreme = np.float32([[0.0, -np.inf, 0.0], [1e4, -1e4, 0.0]])
  value, gradient = jax.jit(jax.value_and_grad(lambda x: entropy(x).sum()))(
    extreme
  )
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  assert np.all(np.isfinite(gradient))
