"""Policy gradients: against loops, and against the divergence they estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillation, language

RNG = np.random.default_rng(1)
STUDENT, TEACHER = RNG.normal(size=(2, 6)).astype(np.float32)
REWARDS = RNG.normal(size=(3, 5)).astype(np.float32)
LENGTHS = np.array([5, 2, 0])
WHERE = np.arange(5) < LENGTHS[:, None]


def test_all_tokens_together_give_the_gradient_of_the_reverse_kl():
  """The expectation over the student's samples, here a sum over tokens."""

  def surrogate(logits):
    log_probs = jax.nn.log_softmax(logits)
    sampling = jax.lax.stop_gradient(log_probs)
    advantages = language.token_reverse_kl_advantages(
      log_probs, jax.nn.log_softmax(TEACHER)
    )
    values = language.policy_gradient_loss(
      log_probs, sampling, advantages, clip=None
    )
    return jnp.sum(jnp.exp(sampling) * values)

  value, gradient = jax.jit(jax.value_and_grad(surrogate))(STUDENT)
  loss = jax.value_and_grad(distillation.reverse_kl_loss)
  expected = jax.jit(loss)(STUDENT, TEACHER)
  np.testing.assert_allclose(value, expected[0], rtol=1e-5)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-6)


def test_advantages_are_whitened_returns_of_the_valid_tokens():
  spoilt = np.where(WHERE, REWARDS, np.float32(np.nan))
  got = np.asarray(
    jax.jit(language.minillm_advantages)(spoilt, WHERE, discount=0.9)
  )
  returns = np.zeros((3, 5))
  for i, n in enumerate(LENGTHS):
    later = 0.0
    for t in reversed(range(n)):
      later = REWARDS[i, t] + 0.9 * later
      returns[i, t] = later / (n - t)
  valid = returns[WHERE]
  np.testing.assert_allclose(
    got[WHERE], (valid - valid.mean()) / valid.std(), rtol=1e-4
  )
  np.testing.assert_array_equal(got[~WHERE], 0)


@pytest.mark.slow
def test_the_ratio_is_clipped_where_that_is_the_pessimist():
  log_probs = jnp.log(jnp.array([2.0, 2.0, 0.5, 0.5]))
  advantages = jnp.array([1.0, -1.0, 1.0, -1.0])

  def loss(x):
    return jnp.sum(
      language.policy_gradient_loss(x, jnp.zeros(4), advantages, clip=0.2)
    )

  values = language.policy_gradient_loss(log_probs, jnp.zeros(4), advantages)
  np.testing.assert_allclose(values, [-1.2, 2.0, -0.5, 0.8], rtol=1e-6)
  np.testing.assert_allclose(
    jax.grad(loss)(log_probs), [0, 2.0, -0.5, 0], rtol=1e-6
  )


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_importance_weights_undo_the_mixture(share):
  log_q, log_p = (jax.nn.log_softmax(x) for x in (STUDENT, TEACHER))
  mixture = jnp.exp(
    language.teacher_mixed_log_probs(STUDENT, TEACHER, teacher_share=share)
  )
  np.testing.assert_allclose(
    mixture, share * jnp.exp(log_p) + (1 - share) * jnp.exp(log_q), rtol=1e-5
  )
  weights = language.teacher_mixed_weights(log_q, log_p, teacher_share=share)
  np.testing.assert_allclose(mixture * weights, jnp.exp(log_q), rtol=1e-5)
