"""Reverse validation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.selection import reverse_validation


def means_of(means, x, labels, mask, key):
  del key
  member = jax.nn.one_hot(labels, 2) * mask[:, None]
  found = member.T @ x / jnp.maximum(member.sum(0), 1)[:, None]
  return jnp.where(member.sum(0)[:, None] > 0, found, means)


def distances(means, x):
  return -jnp.sum((x[:, None] - means[None]) ** 2, -1)


def test_reverse_validation_prefers_right_labels():
  source = np.float32([[-1.0, 0.1], [-0.9, -0.1], [1.1, 0.0], [0.9, 0.1]])
  known = np.array([0, 0, 1, 1])
  right = np.float32([[-1.0, 0.0], [1.0, 0.0]])

  @jax.jit
  def run(start, source, known):
    return reverse_validation(
      jax.random.key(0),
      start,
      source,
      known,
      source + 0.2,
      means_of,
      distances,
      initial=right,
      where_source=jnp.ones(4, bool),
    )

  for start, score in ((right, 1.0), (right[::-1], 0.0)):
    assert run(start, source, known) == score
  with pytest.raises(ValueError, match=r"source_labels has shape \(3,\)"):
    reverse_validation(
      None,
      right,
      source,
      jnp.asarray(known[:3]),
      source,
      means_of,
      distances,
    )
