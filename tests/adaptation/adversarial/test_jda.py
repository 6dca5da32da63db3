"""The document's joint objective and the soft H-divergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import (
  h_divergence_from_errors,
  jda_loss,
  soft_h_divergence,
)
from kdjax.ops import reverse_gradient
from tests.laws import slopes_agree, trace

STEP = jax.jit(jax.value_and_grad(soft_h_divergence, (0, 1)))


def test_divergence_from_errors():
  errors = np.float32([0.0, 0.25, 0.5, 0.9])
  np.testing.assert_allclose(
    jax.jit(h_divergence_from_errors)(errors, errors), [2.0, 1.0, 0.0, 0.0]
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
    value = jax.jit(soft_h_divergence)(source, target[:, None])
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  slopes_agree(soft_h_divergence, (source, target))
  # A discriminator that is wrong about everything is not clipped away.
  wrong = np.full(3, -1e4, np.float32)
  assert STEP(wrong, np.full(8, 1e4, np.float32))[0] == -2
  half = (x.astype(jnp.bfloat16) for x in (source, target))
  assert trace(soft_h_divergence, *half).dtype == jnp.float32


def test_soft_divergence_masks():
  source, target = map(np.float32, logits())
  where, everything = np.array([1, 0, 1, 1, 0], bool), np.ones(8, bool)
  spoiled = np.where(where, source, np.nan)
  value, (gradient, _) = STEP(
    spoiled, target, where_source=where, where_target=everything
  )
  expected, (wanted, _) = STEP(source[where], target)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  gradient = np.asarray(gradient)
  np.testing.assert_allclose(gradient[where], wanted, rtol=1e-6)
  np.testing.assert_array_equal(gradient[~where], 0)
  value, gradients = STEP(
    source, target, where_source=np.ones(5, bool), where_target=~everything
  )
  assert value == 0
  assert not any(np.any(g) for g in gradients)


def test_reversal_makes_one_descent_a_minimax():
  """The discriminator ascends, the features descend, the value keeps sign."""
  features = np.float32([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]])
  discriminator = np.float32([0.5, -0.3])

  def loss(discriminator, features, adversarial):
    if adversarial:
      discriminator = reverse_gradient(discriminator)
    scores = features @ discriminator
    return soft_h_divergence(scores[:1], scores[1:])

  @jax.jit
  def steps(*arguments):
    step = jax.value_and_grad(loss, (0, 1))
    return step(*arguments, False), step(*arguments, True)

  plain, turned = jax.device_get(steps(discriminator, features))
  assert turned[0] == plain[0]
  np.testing.assert_allclose(turned[1][0], -plain[1][0], rtol=1e-6)
  np.testing.assert_allclose(turned[1][1], plain[1][1], rtol=1e-6)


def test_jda_is_the_documents_formula():

  @jax.jit
  def run(losses, divergence):
    form = functools.partial(jda_loss, losses, divergence)
    return (
      form(num_source=3, num_target=5, weight=0.4),
      form(num_target=5),
      form(num_target=5, normalize="labelled"),
      form(num_target=3, weight=0.5),
      form(num_target=3, weight=1.0, normalize="labelled"),
    )

  value, default, labelled, ours, theirs = run(
    np.float32([1.0, 2.0, 6.0]), np.float32(0.5)
  )
  assert value == pytest.approx(9 / 8 + 0.4 * 0.5)
  assert default == pytest.approx(9 / 8 + 0.5)
  assert labelled == pytest.approx(9 / 3 + 0.5)
  # Equal sizes count the weight twice.
  assert ours == pytest.approx(float(theirs) / 2)


def test_jda_masks_gradients_and_tracing():
  losses, divergence = np.float32([1.0, np.nan, 6.0]), np.float32(0.5)
  step = jax.jit(
    jax.value_and_grad(functools.partial(jda_loss, num_target=2)),
    static_argnames="normalize",
  )
  value, gradient = step(losses, divergence, where=np.array([1, 0, 1], bool))
  assert value == pytest.approx(7 / 4 + 0.5)
  np.testing.assert_allclose(gradient, [0.25, 0.0, 0.25])
  value, gradient = step(
    losses, np.float32(0.0), normalize="labelled", where=np.zeros(3, bool)
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
  half = losses.astype(jnp.bfloat16)[::2]
  half = trace(jda_loss, half, divergence, num_target=2)
  assert half.dtype == jnp.float32
  with pytest.raises(ValueError, match="normalize is 'mean'"):
    jda_loss(losses, divergence, num_target=2, normalize="mean")
  with pytest.raises(ValueError, match="num_target is 0"):
    jda_loss(losses, divergence, num_target=0)
