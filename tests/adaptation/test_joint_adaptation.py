"""The document's joint objective and the soft H-divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import h_divergence_from_errors
from kdjax.adaptation import jda_loss
from kdjax.adaptation import soft_h_divergence
from kdjax.ops import reverse_gradient


def test_divergence_from_errors():
  errors = jnp.array([0.0, 0.25, 0.5, 0.9])
  np.testing.assert_allclose(
    h_divergence_from_errors(errors, errors), [2.0, 1.0, 0.0, 0.0]
  )
  assert h_divergence_from_errors(0.1, 0.2) == pytest.approx(1.4)
  with pytest.raises(ValueError, match=r"target_error is 1\.5"):
    h_divergence_from_errors(0.1, 1.5)
  with pytest.raises(ValueError, match=r"target_error has shape \(2,\)"):
    h_divergence_from_errors(errors, errors[:2])


def logits():
  rng = np.random.default_rng(0)
  return 3 * rng.normal(size=5) + 1, 3 * rng.normal(size=8)


def test_soft_divergence_equals_numpy():
  source, target = logits()
  error_source = np.mean(1 / (1 + np.exp(source)))
  error_target = np.mean(1 / (1 + np.exp(-target)))
  expected = 2 * (1 - (error_source + error_target))
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      soft_h_divergence(source, target[:, None]), expected, rtol=1e-12
    )
    check_grads(
      soft_h_divergence, tuple(map(jnp.asarray, (source, target))), order=1
    )
  # A discriminator that is wrong about everything is not clipped away.
  assert soft_h_divergence(jnp.full(2, -1e4), jnp.full(3, 1e4)) == -2
  half = (jnp.asarray(x, jnp.bfloat16) for x in (source, target))
  assert soft_h_divergence(*half).dtype == jnp.float32


def test_soft_divergence_masks():
  source, target = map(jnp.float32, logits())
  where = jnp.array([True, False, True, True, False])
  spoiled = jnp.where(where, source, jnp.nan)

  def masked(x):
    return soft_h_divergence(x, target, where_source=where)

  def sliced(x):
    return soft_h_divergence(x[where], target)

  value, gradient = jax.value_and_grad(masked)(spoiled)
  expected, wanted = jax.value_and_grad(sliced)(source)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
  value, gradients = jax.value_and_grad(soft_h_divergence, (0, 1))(
    source, target, where_target=jnp.zeros(8, bool)
  )
  assert value == 0
  assert not any(np.any(g) for g in gradients)


def test_reversal_makes_one_descent_a_minimax():
  """The discriminator ascends, the features descend, the value keeps sign."""
  features = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]])
  discriminator = jnp.array([0.5, -0.3])

  def loss(discriminator, features, adversarial):
    if adversarial:
      discriminator = reverse_gradient(discriminator)
    scores = features @ discriminator
    return soft_h_divergence(scores[:1], scores[1:])

  plain = jax.value_and_grad(loss, (0, 1))(discriminator, features, False)
  turned = jax.value_and_grad(loss, (0, 1))(discriminator, features, True)
  assert turned[0] == plain[0]
  np.testing.assert_allclose(turned[1][0], -plain[1][0], rtol=1e-6)
  np.testing.assert_allclose(turned[1][1], plain[1][1], rtol=1e-6)


def test_jda_is_the_documents_formula():
  losses, divergence = jnp.array([1.0, 2.0, 6.0]), jnp.array(0.5)
  value = jda_loss(losses, divergence, num_source=3, num_target=5, weight=0.4)
  assert value == pytest.approx(9 / 8 + 0.4 * 0.5)
  assert jda_loss(losses, divergence, num_target=5) == pytest.approx(
    9 / 8 + 0.5
  )
  labelled = jda_loss(losses, divergence, num_target=5, normalize="labelled")
  assert labelled == pytest.approx(9 / 3 + 0.5)


def test_equal_sizes_count_the_weight_twice():
  losses, divergence = jnp.array([1.0, 2.0, 6.0]), jnp.array(0.5)
  ours = jda_loss(losses, divergence, num_target=3, weight=0.5)
  theirs = jda_loss(
    losses, divergence, num_target=3, weight=1.0, normalize="labelled"
  )
  assert ours == pytest.approx(float(theirs) / 2)


def test_jda_masks_gradients_and_tracing():
  losses, divergence = jnp.array([1.0, jnp.nan, 6.0]), jnp.array(0.5)
  where = jnp.array([True, False, True])
  value, gradient = jax.value_and_grad(jda_loss)(
    losses, divergence, num_target=2, where=where
  )
  assert value == pytest.approx(7 / 4 + 0.5)
  np.testing.assert_allclose(gradient, [0.25, 0.0, 0.25])
  value, gradient = jax.value_and_grad(jda_loss)(
    losses,
    jnp.array(0.0),
    num_target=2,
    normalize="labelled",
    where=jnp.zeros(3, bool),
  )
  assert value == 0
  assert not np.any(gradient)
  traces = []

  @jax.jit
  def run(weight, num_source, num_target):
    traces.append(None)
    return jda_loss(
      losses[::2],
      divergence,
      weight=weight,
      num_source=num_source,
      num_target=num_target,
    )

  assert run(1.0, 2, 2) == pytest.approx(7 / 4 + 0.5)
  assert run(0.2, 5, 9) == pytest.approx(7 / 14 + 0.1)
  assert len(traces) == 1
  half = jda_loss(losses.astype(jnp.bfloat16)[::2], divergence, num_target=2)
  assert half.dtype == jnp.float32
  with pytest.raises(ValueError, match="normalize is 'mean'"):
    jda_loss(losses, divergence, num_target=2, normalize="mean")
  with pytest.raises(ValueError, match="num_target is 0"):
    jda_loss(losses, divergence, num_target=0)
