"""The joint objective: its three terms, and who gets a gradient."""

import jax
import numpy as np
import pytest

from kdjax.cross_modal import cross_modal_joint_loss
from kdjax.distillation import kd_loss

RNG = np.random.default_rng(1)
LOGITS, THEIRS = RNG.normal(size=(2, 5, 3)).astype(np.float32)
ROWS, THEIR_ROWS = RNG.normal(size=(2, 5, 4)).astype(np.float32)
LABELS = np.arange(5) % 3


def loss(*arrays, **options):
  logits, theirs, rows, their_rows = arrays
  return cross_modal_joint_loss(
    logits, theirs, LABELS, rows, their_rows, **options
  )


def softmax(x):
  x = np.exp(x.astype(np.float64))
  return x / x.sum(-1, keepdims=True)


def test_the_three_terms_are_those_of_the_formula():
  p, q = softmax(THEIRS / 2), softmax(LOGITS / 2)
  task = -np.log(softmax(LOGITS)[np.arange(5), LABELS])
  soft = 4 * np.sum(p * np.log(p / q), -1)
  lengths = [np.linalg.norm(x, axis=-1) for x in (ROWS, THEIR_ROWS)]
  cosine = np.sum(ROWS * THEIR_ROWS, -1) / np.prod(lengths, 0)
  got = loss(
    *(LOGITS, THEIRS, ROWS, THEIR_ROWS),
    distillation=0.5,
    alignment=3.0,
    temperature=2.0,
  )
  expected = task + 0.5 * soft + 3 * (1 - cosine)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_without_alignment_it_is_kd():
  got = loss(
    *(LOGITS, THEIRS, ROWS, THEIR_ROWS), distillation=9.0, alignment=0.0
  )
  np.testing.assert_allclose(
    0.1 * got, kd_loss(LOGITS, THEIRS, LABELS, alpha=0.9), rtol=1e-5
  )


@pytest.mark.slow
def test_the_teacher_gets_no_gradient():
  def total(*arrays):
    return loss(*arrays).sum()

  slopes = jax.grad(total, (0, 1, 2, 3))(LOGITS, THEIRS, ROWS, THEIR_ROWS)
  assert [bool(np.any(x)) for x in slopes] == [True, False, True, False]


def test_unpaired_batches_are_an_error():
  with pytest.raises(ValueError, match=r"teacher_embeddings has shape \(4, 4"):
    loss(LOGITS, THEIRS, ROWS, THEIR_ROWS[:4])
