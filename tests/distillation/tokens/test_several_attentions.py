"""Attention of transformers, and MiniLM's relations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import (
  attention_ce_loss,
  attention_mse_loss,
  minilm_loss,
  minilm_v2_loss,
)
from tests import laws, oracles

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 2 * RNG.normal(size=(2, 16, 3, 5, 5)).astype(np.float32)
VALUES = RNG.normal(size=(16, 3, 5, 4)).astype(np.float32)
TEACHER_VALUES = RNG.normal(size=(16, 3, 5, 6)).astype(np.float32)
VECTORS = [x.astype(np.float32) for x in RNG.normal(size=(3, 16, 5, 8))]
TEACHER_VECTORS = [
  x.astype(np.float32) for x in RNG.normal(size=(3, 16, 5, 12))
]
LENGTHS = RNG.integers(0, 6, 16)
MASK = (np.arange(5) < LENGTHS[:, None]).astype(int)


def minilm(student, teacher, mask):
  return minilm_loss(
    student[0],
    teacher[0],
    mask,
    student_values=student[1],
    teacher_values=teacher[1],
  )


def minilm_v2(student, teacher, mask):
  return minilm_v2_loss(student, teacher, mask, relation_heads=4)


CASES = {
  "mse": laws.Case(attention_mse_loss, (STUDENT, TEACHER, MASK), coupled=True),
  "ce": laws.Case(attention_ce_loss, (STUDENT, TEACHER, MASK), coupled=True),
  "minilm": laws.Case(
    minilm, ([STUDENT, VALUES], [TEACHER, TEACHER_VALUES], MASK)
  ),
  "minilm_v2": laws.Case(minilm_v2, (VECTORS[0], TEACHER_VECTORS[0], MASK)),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def without_mask(student, teacher, mask):
  return attention_mse_loss(student, teacher, where=mask[:, 0] == 1)


def minilm_values(student, teacher, mask):
  return minilm([STUDENT, student], [TEACHER, teacher], mask)


VALID = MASK[:, None, :, None] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ("loss", "arguments", "valid"),
  [
    (attention_mse_loss, (STUDENT, TEACHER), VALID & VALID.swapaxes(2, 3)),
    (without_mask, (STUDENT, TEACHER), VALID[:, :, :1]),
    # Its softmax is over all keys, masked or not.
    (attention_ce_loss, (STUDENT, TEACHER), VALID),
    (minilm_values, (VALUES, TEACHER_VALUES), VALID),
    (minilm_v2, (VECTORS[0], TEACHER_VECTORS[0]), VALID[:, 0]),
  ],
)
def test_padding_does_not_matter(loss, arguments, valid):
  program = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(loss(*a))))
  got, expected = (
    program(*(np.where(valid, x, np.float32(fill)) for x in arguments), MASK)
    for fill in (np.nan, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_attention_losses_equal_a_loop_over_valid_tokens():
  squares, entropies = [], []
  for student, teacher, n in zip(STUDENT, TEACHER, LENGTHS, strict=True):
    valid = np.s_[:, :n, :n]
    squares.append(np.square(np.float64(student) - teacher)[valid].ravel())
    terms = -np.exp(oracles.log_softmax(teacher)) * oracles.log_softmax(student)
    entropies.append(terms[valid].sum(2).ravel())
  values = jax.jit(lambda *a: (attention_mse_loss(*a), attention_ce_loss(*a)))(
    STUDENT, TEACHER, MASK
  )
  expected = [np.concatenate(x).mean() for x in (squares, entropies)]
  np.testing.assert_allclose(values, np.float64(expected), rtol=1e-5)


def test_without_a_mask_the_cutoff_keeps_padding_out():
  padded = np.where(MASK[:, None, None] == 1, STUDENT, -1e4)
  teacher = np.where(MASK[:, None, None] == 1, TEACHER, -1e4 - 3)
  kept = np.where(MASK[:, None, None] == 1, np.float64(STUDENT) - TEACHER, 0)
  loss = jax.jit(attention_mse_loss)
  np.testing.assert_allclose(
    loss(padded, teacher), np.square(kept).mean(), rtol=1e-5
  )
  positive = np.maximum(np.float64(STUDENT), 0) - np.maximum(TEACHER, 0)
  np.testing.assert_allclose(
    loss(STUDENT, TEACHER, cutoff=-1e-3),
    np.square(positive).mean(),
    rtol=1e-2,
  )


def divergence(student, teacher, heads=None):
  """Of relations, with the queries and keys that are valid, an example."""
  values = []
  for a, b, n in zip(student, teacher, LENGTHS, strict=True):
    rows = (
      oracles.kl_of_logits(a[:, :n, :n], b[:, :n, :n]) if n else np.zeros(1)
    )
    values.append(rows.mean())
  return np.float64(values)


def relation(vectors):
  vectors = np.float64(vectors)
  return vectors @ np.swapaxes(vectors, 2, 3) / np.sqrt(vectors.shape[-1])


def test_minilm_equals_the_paper():
  @jax.jit
  def program(student, teacher):
    alone = minilm_loss(student[0], teacher[0], MASK)
    return alone, minilm(student, teacher, MASK)

  alone, both = program([STUDENT, VALUES], [TEACHER, TEACHER_VALUES])
  attention = divergence(STUDENT, TEACHER)
  np.testing.assert_allclose(alone, attention, rtol=1e-4)
  values = divergence(relation(VALUES), relation(TEACHER_VALUES))
  np.testing.assert_allclose(both, attention + values, rtol=1e-4)


@pytest.mark.slow
def test_minilm_v2_equals_the_paper():
  def split(x):
    return np.stack(np.split(x, 4, axis=2), 1)

  terms = [
    divergence(relation(split(a)), relation(split(b)))
    for a, b in zip(VECTORS, TEACHER_VECTORS, strict=True)
  ]

  @jax.jit
  def program(student, teacher):
    first = minilm_v2(student[0], teacher[0], MASK)
    return first, minilm_v2(student, teacher, MASK)

  first, mean = program(VECTORS, TEACHER_VECTORS)
  np.testing.assert_allclose(mean, np.mean(terms, 0), rtol=1e-4)
  np.testing.assert_allclose(first, terms[0], rtol=1e-4)


@pytest.mark.slow
def test_masked_scores_of_minus_infinity_are_finite():
  keys = MASK[:, None, None] == 1
  student, teacher = (np.where(keys, x, -np.inf) for x in (STUDENT, TEACHER))

  @jax.jit
  def program(student, teacher):
    return [
      jax.value_and_grad(lambda x, f=loss: jnp.sum(f(x, teacher, MASK)))(
        student
      )
      for loss in (attention_mse_loss, attention_ce_loss, minilm_loss)
    ]

  for value, gradient in program(student, teacher):
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="expected both or neither"):
    laws.trace(minilm_loss, STUDENT, TEACHER, student_values=VALUES)
  with pytest.raises(ValueError, match="student_hidden has width 8"):
    laws.trace(minilm_v2_loss, VECTORS, TEACHER_VECTORS, relation_heads=3)
  with pytest.raises(ValueError, match="expected equal numbers, at least 1"):
    laws.trace(minilm_v2_loss, VECTORS, TEACHER_VECTORS[:2])
  with pytest.raises(ValueError, match="4 queries and 5 keys"):
    laws.trace(attention_mse_loss, STUDENT[:, :, :4], TEACHER[:, :, :4], MASK)
  with pytest.raises(ValueError, match="teacher_attention has shape"):
    laws.trace(attention_ce_loss, STUDENT, TEACHER[:, :2])
