"""SSKD: laws, and oracles with their loops."""

import jax
import numpy as np
import pytest

from kdjax.distillation import (
  sskd_pretext_loss,
  sskd_similarity_loss,
  sskd_transformed_loss,
)
from tests import laws, oracles

RNG = np.random.default_rng(6)
LOGITS, TEACHER_LOGITS = (3 * RNG.normal(size=(2, 16, 3, 6))).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(16, 4, 5)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 4, 7)).astype(np.float32)
TEACHER[:, 1:] += 0.7 * TEACHER[:, :1]
LABELS = RNG.integers(0, 6, 16)

TRANSFORMED, SIMILARITY, PRETEXT = map(
  jax.jit, (sskd_transformed_loss, sskd_similarity_loss, sskd_pretext_loss)
)

CASES = {
  "transformed": laws.Case(
    sskd_transformed_loss,
    (LOGITS, TEACHER_LOGITS, LABELS),
    {"temperature": 3.0, "ratio": 0.6},
    coupled=True,
  ),
  "similarity": laws.Case(
    sskd_similarity_loss,
    (EMBEDDINGS, TEACHER),
    {"temperature": 0.7, "ratio": 0.6},
    coupled=True,
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_pretext_does_not_see_what_masked_images_hold():
  mask = CASES["similarity"].mask
  program = jax.jit(
    jax.value_and_grad(lambda x: sskd_pretext_loss(x, where=mask))
  )
  rows = mask[:, None, None]
  for got, expected in zip(
    program(np.where(rows, EMBEDDINGS, np.nan)),
    program(np.where(rows, EMBEDDINGS, 1)),
    strict=True,
  ):
    np.testing.assert_array_equal(got, expected)


def kept(ranks, ratio):
  """All of rank 0, and the best of the others."""
  order = np.argsort(ranks, kind="stable")
  wrong = (ranks > 0).sum()
  return order[: len(ranks) - wrong + int(wrong * ratio)]


def rank(scores, chosen):
  return list(np.argsort(-scores, kind="stable")).index(chosen)


def test_transformed_equals_the_paper():
  logits, teacher = (z.reshape(48, 6) for z in (LOGITS, TEACHER_LOGITS))
  labels = np.repeat(LABELS, 3)
  ranks = np.array([rank(z, y) for z, y in zip(teacher, labels, strict=True)])
  p, q = (np.exp(oracles.log_softmax(z, 3.0)) for z in (teacher, logits))
  for ratio in (0.0, 0.6, 1.0):
    expected = 9 * oracles.kl(p, q)[kept(ranks, ratio)].mean()
    np.testing.assert_allclose(
      TRANSFORMED(LOGITS, TEACHER_LOGITS, LABELS, temperature=3.0, ratio=ratio),
      np.float64(expected),
      rtol=1e-5,
    )


def similarities(embeddings):
  e = np.float64(embeddings)
  e /= np.linalg.norm(e, axis=-1, keepdims=True)
  return e[:, 1:].reshape(-1, e.shape[-1]) @ e[:, 0].T


def test_similarity_equals_the_paper():
  student, teacher = similarities(EMBEDDINGS), similarities(TEACHER)
  own = np.repeat(np.arange(16), 3)
  ranks = np.array([rank(z, y) for z, y in zip(teacher, own, strict=True)])
  assert 5 < (ranks > 0).sum() < 43
  p, q = (np.exp(oracles.log_softmax(z, 0.5)) for z in (teacher, student))
  expected = 0.25 * oracles.kl(p, q)[kept(ranks, 0.75)].mean()
  np.testing.assert_allclose(
    SIMILARITY(EMBEDDINGS, TEACHER),
    np.float64(expected),
    rtol=1e-5,
  )


def test_pretext_is_the_cross_entropy_of_finding_the_original():
  own = np.repeat(np.arange(16), 3)
  expected = oracles.cross_entropy(similarities(TEACHER), own).mean()
  np.testing.assert_allclose(PRETEXT(TEACHER), np.float64(expected), rtol=1e-5)
  where = np.arange(16) < 9
  changed = np.where(where[:, None, None], TEACHER, np.float32(7.0))
  np.testing.assert_allclose(
    PRETEXT(changed, where=where),
    PRETEXT(TEACHER[:9]),
    rtol=1e-5,
  )


def test_a_ratio_is_a_share():
  with pytest.raises(ValueError, match=r"ratio is 1\.5; expected a number in"):
    laws.trace(sskd_similarity_loss, EMBEDDINGS, TEACHER, ratio=1.5)
