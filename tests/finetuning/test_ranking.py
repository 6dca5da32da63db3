"""Which teacher: every criterion prefers the one that sees the classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.finetuning import TeacherRanking
from kdjax.finetuning import logme
from kdjax.finetuning import rank_teachers
from kdjax.finetuning import transrate

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
NOISE = RNG.normal(size=(60, 4)).astype(np.float32)
CENTERS = 3 * np.eye(3, 4, dtype=np.float32)[LABELS]
EMBEDDINGS = {
  "blind": NOISE,
  "sharp": CENTERS + NOISE,
  "dim": (0.6 * CENTERS + NOISE)[:, :3],
}
CANDIDATES = {
  "leep": {k: np.asarray(jax.nn.softmax(v)) for k, v in EMBEDDINGS.items()},
  "nce": {k: v.argmax(1) for k, v in EMBEDDINGS.items()},
}


@pytest.mark.parametrize(
  "criterion",
  ["logme", "h_score", "regularized_h_score", "transrate", "leep", "nce"],
)
def test_the_best_is_first(criterion):
  candidates = CANDIDATES.get(criterion, EMBEDDINGS)
  ranking = rank_teachers(candidates, LABELS, criterion=criterion)
  assert isinstance(ranking, TeacherRanking)
  # TransRate compares models of one width.
  kept = [n for n in ranking.names if criterion != "transrate" or n != "dim"]
  expected = ["sharp", "dim", "blind"]
  assert kept == [n for n in expected if n in kept]
  assert np.all(np.diff(ranking.scores) <= 0)


def test_scores_masks_and_functions():
  where = np.arange(60) < 30
  ranking = rank_teachers(EMBEDDINGS, LABELS, where=where)
  for name, score in zip(*ranking, strict=True):
    np.testing.assert_allclose(
      score, logme(EMBEDDINGS[name][:30], LABELS[:30]), rtol=1e-5
    )
  coarse = rank_teachers(
    EMBEDDINGS, LABELS, criterion=functools.partial(transrate, eps=1.0)
  )
  assert coarse.names[0] == "sharp"
  regression = rank_teachers(EMBEDDINGS, CENTERS)
  assert regression.names[0] == "sharp"


def test_ties_stay_and_nan_is_last():
  candidates = {
    k: jnp.asarray(v)
    for k, v in zip("abcd", [1.0, jnp.nan, 2.0, 2.0], strict=True)
  }
  ranking = rank_teachers(candidates, LABELS, criterion=lambda x, y: x)
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
