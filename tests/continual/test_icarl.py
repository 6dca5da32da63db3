"""Herding against the algorithm of the paper."""

import jax
import numpy as np
import pytest

from kdjax.continual import herding

ROWS = np.random.default_rng(0).normal(size=(24, 4))
HERD = jax.jit(herding, static_argnames="size")


def algorithm_4(rows, size):
  """As the paper writes it, with the distance to the mean."""
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  mean, chosen = rows.mean(0), []
  for k in range(1, size + 1):
    sums = rows[chosen].sum(0)
    distances = np.linalg.norm(mean - (sums + rows) / k, axis=1)
    distances[chosen] = np.inf
    chosen.append(int(np.argmin(distances)))
  return chosen


def test_herding_is_the_papers_algorithm_to_the_last_example():
  with jax.enable_x64(True):
    chosen = np.asarray(HERD(ROWS, size=24))
  assert list(chosen) == algorithm_4(ROWS, 24)
  assert sorted(chosen) == list(range(24))


def test_herding_of_each_class_at_once():
  labels = np.arange(24) % 3
  masks = labels[None] == np.arange(3)[:, None]
  with jax.enable_x64(True):
    chosen = np.asarray(
      jax.jit(jax.vmap(lambda w: herding(ROWS, 10, where=w)))(masks)
    )
  for c in range(3):
    rows = np.flatnonzero(labels == c)
    assert list(chosen[c, :8]) == list(rows[algorithm_4(ROWS[labels == c], 8)])
    # A class of eight examples has no ninth.
    assert list(chosen[c, 8:]) == [-1, -1]


def test_more_examples_than_there_are_is_an_error():
  with pytest.raises(ValueError, match=r"size is 25; expected at most .* 24"):
    herding(ROWS, 25)
