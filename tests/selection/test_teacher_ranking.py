"""Which teacher: every criterion prefers the one that sees the classes."""

import inspect

import jax
import numpy as np
import pytest

from kdjax.selection import (
  TeacherRanking,
  _teacher_ranking,
  logme,
  rank_teachers,
)

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
NOISE = RNG.normal(size=(60, 4)).astype(np.float32)
CENTERS = 3 * np.eye(3, 4, dtype=np.float32)[LABELS]
EMBEDDINGS = {
  "blind": NOISE,
  "sharp": CENTERS + NOISE,
  "dim": 0.6 * CENTERS + NOISE,
}
LOGME = jax.jit(logme)
CANDIDATES = {
  "leep": {
    k: np.exp(v) / np.exp(v).sum(1, keepdims=True)
    for k, v in EMBEDDINGS.items()
  },
  "nce": {k: v.argmax(1) for k, v in EMBEDDINGS.items()},
}
CRITERIA = _teacher_ranking._CRITERIA


@pytest.fixture(autouse=True)
def compiled_criteria(monkeypatch):
  """One program each, not one for each of its operations."""
  compiled = {k: jax.jit(v) for k, v in CRITERIA.items()} | {"logme": LOGME}
  monkeypatch.setattr(_teacher_ranking, "_CRITERIA", compiled)


@pytest.mark.slow
@pytest.mark.parametrize(
  "criterion",
  ["logme", "h_score", "regularized_h_score", "transrate", "leep", "nce"],
)
def test_the_best_is_first(criterion):
  candidates = CANDIDATES.get(criterion, EMBEDDINGS)
  ranking = rank_teachers(candidates, LABELS, criterion=criterion)
  assert isinstance(ranking, TeacherRanking)
  assert ranking.names == ("sharp", "dim", "blind")
  assert np.all(np.diff(ranking.scores) <= 0)


def test_scores_of_a_masked_regression():
  where = np.arange(60) < 30
  ranking = rank_teachers(EMBEDDINGS, CENTERS, where=where)
  assert ranking.names[0] == "sharp"
  for name, score in zip(*ranking, strict=True):
    # What is masked does not matter.
    rows = np.where(where[:, None], EMBEDDINGS[name], 7.0)
    np.testing.assert_allclose(
      score, LOGME(rows, CENTERS, where=where), rtol=1e-5
    )


def test_a_function_of_any_width():
  """Ties stay, NaN is last."""
  candidates = {
    k: np.full((60, i + 1), v)
    for i, (k, v) in enumerate(
      zip("abcd", [1.0, np.nan, 2.0, 2.0], strict=True)
    )
  }

  def criterion(candidate, labels):
    np.testing.assert_array_equal(labels, LABELS)
    return np.asarray(candidate)[0, 0]

  ranking = rank_teachers(candidates, LABELS, criterion=criterion)
  assert ranking.names == ("c", "d", "a", "b")


def test_errors_say_what_was_expected():
  with pytest.raises(ValueError, match="criterion is 'best'; expected one of"):
    rank_teachers(EMBEDDINGS, LABELS, criterion="best")
  with pytest.raises(ValueError, match="candidates is empty"):
    rank_teachers({}, LABELS)
  with pytest.raises(ValueError, match="where is given; expected None"):
    rank_teachers(EMBEDDINGS, LABELS, criterion=logme, where=np.ones(60, bool))
  with pytest.raises(TypeError, match="is being traced; expected arrays"):
    jax.jit(lambda x: rank_teachers({"a": x}, LABELS).scores)(NOISE)


def test_candidates_have_names():
  with pytest.raises(TypeError, match=r"candidates is a list; expected a mapp"):
    inspect.unwrap(rank_teachers)([np.ones((4, 2))], np.arange(4) % 2)
