"""Rules that choose a hyper-parameter by what may be seen of its candidates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import selection


class Seen(NamedTuple):
  """The scores of a candidate on the data of a seed.

  Attributes:
    scores: what the rules go by, without target labels.
    target_accuracy: on target validation points, for the oracle alone.
    test_accuracy: on target test points; it chooses nothing.
  """

  scores: dict[str, float]
  target_accuracy: float
  test_accuracy: float


class Rule(NamedTuple):
  """A rule that sees no target label.

  Attributes:
    words: what it goes by.
    score: scores of all candidates -> `[candidates]`, higher is better.
  """

  words: str
  score: Callable[[dict[str, np.ndarray]], np.ndarray]


def _guarded(scores: dict[str, np.ndarray]) -> np.ndarray:
  """Information alone may reward confident nonsense on both domains."""
  good = scores["source_accuracy"] >= scores["source_accuracy"].max() - 0.02
  return np.where(good, scores["information"], -np.inf)


RULES = {
  "source_accuracy": Rule(
    "accuracy on source validation points",
    lambda scores: scores["source_accuracy"],
  ),
  "importance_weighted": Rule(
    "accuracy on source validation points, weighted by uLSIF density ratios "
    "(IWV)",
    lambda scores: scores["importance_weighted"],
  ),
  "dev": Rule(
    "accuracy on source validation points, weighted by uLSIF density ratios, "
    "with a control variate (DEV)",
    lambda scores: scores["dev"],
  ),
  "reverse": Rule(
    "accuracy on source validation points after the way back: the method "
    "adapts from the target, with the labels it gave it, to the source "
    "(reverse validation)",
    lambda scores: scores["reverse"],
  ),
  "entropy": Rule(
    "sure predictions of target validation points (entropy)",
    lambda scores: scores["entropy"],
  ),
  "information": Rule(
    "mutual information of target validation points and their predicted "
    "classes",
    lambda scores: scores["information"],
  ),
  "bnm": Rule(
    "nuclear norm of the predictions of target validation points",
    lambda scores: scores["bnm"],
  ),
  "snd": Rule(
    "soft neighbourhood density of the predictions of target validation points",
    lambda scores: scores["snd"],
  ),
  "guarded": Rule(
    "mutual information of target validation points and their predicted "
    "classes, among candidates whose accuracy on source validation points is "
    "within 2 points of the best",
    _guarded,
  ),
}
# No rules: by labels of target validation points, and the mean of all.
ORACLE, CHANCE = "oracle", "chance"


@jax.jit
def scores_of(
  source_hits: jax.Array, ratios: jax.Array, target_logits: jax.Array
) -> dict[str, jax.Array]:
  """The scores of all rules but reverse validation, which has to train again.

  Args:
    source_hits: `[rows]`, 1 where a source validation point was told right.
    ratios: `[rows]`, density ratios of the target to the source there.
    target_logits: `[rows, 2]`, of target validation points.

  Returns:
    Scalars; higher is better.
  """
  errors = 1.0 - source_hits
  return {
    "source_accuracy": jnp.mean(source_hits),
    "importance_weighted": selection.importance_weighted_score(
      errors, ratios, normalize=True
    ),
    "dev": selection.dev_score(errors, ratios),
    "entropy": selection.entropy_score(target_logits),
    "information": selection.im_score(target_logits),
    "bnm": selection.bnm_score(target_logits),
    "snd": selection.snd_score(target_logits),
  }


def choose(candidates: Sequence[Seen]) -> dict[str, float]:
  """Lets each rule choose a candidate on the data of a seed.

  Args:
    candidates: what is seen of each.

  Returns:
    Rule -> accuracy on target test points; :data:`ORACLE` and :data:`CHANCE`
    too.
  """
  scores = {
    name: np.array([seen.scores[name] for seen in candidates])
    for name in candidates[0].scores
  }
  tests = np.array([seen.test_accuracy for seen in candidates])
  chosen = {
    name: float(tests[np.argmax(rule.score(scores))])
    for name, rule in RULES.items()
  }
  best = np.argmax([seen.target_accuracy for seen in candidates])
  return chosen | {ORACLE: float(tests[best]), CHANCE: float(tests.mean())}
