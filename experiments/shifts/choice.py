"""The scores of candidates, and the choice of each rule."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import rules
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
    Rule -> accuracy on target test points; `ORACLE` and `CHANCE`
    too.
  """
  scores = {
    name: np.array([seen.scores[name] for seen in candidates])
    for name in candidates[0].scores
  }
  tests = np.array([seen.test_accuracy for seen in candidates])
  chosen = {
    rule: float(tests[rules.choose(rule, scores)]) for rule in rules.RULES
  }
  best = np.argmax([seen.target_accuracy for seen in candidates])
  return chosen | {ORACLE: float(tests[best]), CHANCE: float(tests.mean())}
