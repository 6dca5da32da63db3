"""A client's logits are bounded and hidden in the consensus."""

import jax
import numpy as np
import optax.contrib
import pytest

from kdjax.federated import private_consensus

KEY = jax.random.key(0)
LOGITS = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
CENTERED = LOGITS - LOGITS.mean(-1, keepdims=True)


def noiseless(logits, clip=1.0, **options):
  return private_consensus(
    KEY, logits, clip=clip, noise_multiplier=0.0, **options
  )


def test_without_noise_it_is_the_mean_of_clipped_clients():
  norms = np.linalg.norm(CENTERED.reshape(4, -1), axis=1)
  clipped = CENTERED / np.maximum(norms / 2.0, 1)[:, None, None]
  np.testing.assert_allclose(noiseless(LOGITS, 2.0), clipped.mean(0), atol=1e-6)
  np.testing.assert_allclose(
    noiseless(LOGITS, 1e3), CENTERED.mean(0), atol=1e-6
  )


def test_optax_clips_and_draws_the_same():
  aggregate = optax.contrib.differentially_private_aggregate(1.5, 0.7, KEY)
  expected, _ = aggregate.update(CENTERED, aggregate.init(CENTERED[0]))
  found = private_consensus(KEY, LOGITS, clip=1.5, noise_multiplier=0.7)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_client_moves_the_sum_by_its_clip():
  changed = LOGITS.copy()
  changed[1] *= -1e4
  gap = 4 * (noiseless(changed) - noiseless(LOGITS))
  assert 1.9 < np.linalg.norm(gap) <= 2.0001


def test_the_noise_has_its_size():
  logits = np.zeros((5, 200, 50), np.float32)
  noise = private_consensus(KEY, logits, clip=3.0, noise_multiplier=2.0)
  np.testing.assert_allclose(noise.std(), 3.0 * 2.0 / 5, rtol=0.03)
  other = private_consensus(
    jax.random.key(1), logits, clip=3.0, noise_multiplier=2.0
  )
  assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05


def test_lost_clients_do_not_count():
  sent = LOGITS.copy()
  sent[2] = np.nan
  alive = np.array([True, True, False, True])
  np.testing.assert_allclose(
    noiseless(sent, 1e3, where=alive), CENTERED[alive].mean(0), atol=1e-6
  )


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="clip is 0"):
    noiseless(LOGITS, 0)
  with pytest.raises(ValueError, match="noise_multiplier is -1"):
    private_consensus(KEY, LOGITS, clip=1.0, noise_multiplier=-1)
  with pytest.raises(TypeError, match="key is 3; expected a JAX random key"):
    private_consensus(3, LOGITS, clip=1.0, noise_multiplier=1.0)
