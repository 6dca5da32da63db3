"""The causal shift: what each position is to predict."""

import jax
import numpy as np
import pytest

from kdjax.language import next_token_log_probs, next_token_targets
from kdjax.ops import cross_entropy, masked_mean

TOKENS = np.array([[9, 9, 4, 5, 6], [3, 1, 2, -100, -100]])


def test_a_position_predicts_the_next_token():
  labels, where = next_token_targets(TOKENS)
  np.testing.assert_array_equal(labels, [[9, 4, 5, 6, 0], [1, 2, 0, 0, 0]])
  np.testing.assert_array_equal(
    where, np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
  )


def test_the_first_token_of_a_completion_is_a_target():
  completion = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]], bool)
  _, where = next_token_targets(TOKENS, completion)
  np.testing.assert_array_equal(
    where, np.array([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
  )


def test_padding_on_either_side_predicts_nothing():
  attention = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
  labels, where = next_token_targets(TOKENS, attention_mask=attention)
  np.testing.assert_array_equal(
    where, np.array([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
  )
  np.testing.assert_array_equal(labels, [[0, 0, 5, 6, 0], [1, 2, 0, 0, 0]])


def test_log_probabilities_stand_where_the_labels_do():
  """If each token's log-probability is minus the token, so is each label's."""
  labels, where = next_token_targets(TOKENS)
  found = next_token_log_probs(-TOKENS.astype(np.float32))
  np.testing.assert_array_equal(found[where], -labels[where])


@pytest.mark.slow
def test_a_model_that_knows_the_next_token_has_no_loss():
  """And one that repeats the token it reads has much: the classic bug."""
  labels, where = next_token_targets(TOKENS)
  right = 50.0 * jax.nn.one_hot(labels, 10)
  shifted = 50.0 * jax.nn.one_hot(TOKENS, 10)
  losses = [
    masked_mean(cross_entropy(x, labels), where) for x in (right, shifted)
  ]
  assert losses[0] < 1e-6
  assert losses[1] > 30
