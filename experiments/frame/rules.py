"""Rules that choose a hyper-parameter without target labels."""

from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from kdjax import selection

Rule = Literal[
  "source_accuracy",
  "importance_weighted",
  "dev",
  "reverse",
  "entropy",
  "information",
  "bnm",
  "snd",
  "guarded",
]
# Rule -> its score, of source and target validation examples.
RULES: dict[Rule, str] = {
  "source_accuracy": "accuracy on source validation examples",
  "importance_weighted": "accuracy on source validation examples under "
  "importance weights (IWV)",
  "dev": "accuracy on source validation examples under importance weights, "
  "with a control variate (DEV)",
  "reverse": "accuracy on source validation examples of a classifier that "
  "learned the predicted labels of the target (reverse validation)",
  "entropy": "low entropy of the predictions for target validation examples",
  "information": "mutual information of target validation examples and their "
  "predicted classes",
  "bnm": "nuclear norm of the predictions for target validation examples",
  "snd": "soft neighbourhood density of the predictions for target validation "
  "examples",
  "guarded": "mutual information of target validation examples and their "
  "predicted classes, among candidates whose accuracy on source validation "
  "examples is within 2 points of the best",
}


# A flag that names one of them.
Flag = Annotated[
  Rule,
  tyro.conf.arg(
    help="the rule that chooses without target labels. "
    + "; ".join(f"{rule}: {text}" for rule, text in RULES.items())
  ),
]


def score(
  source_hits: jax.Array,
  source_losses: jax.Array,
  ratios: jax.Array,
  target_logits: jax.Array,
  neighbours: jax.Array,
) -> dict[str, jax.Array]:
  """The scores of all rules but reverse and guarded; higher is better.

  Validation examples of the source have density ratios of the target; those of
  the target have vectors to measure the density of neighbourhoods by.
  """
  return {
    "source_accuracy": jnp.mean(source_hits),
    "importance_weighted": selection.importance_weighted_score(
      source_losses, ratios, normalize=True
    ),
    "dev": selection.dev_score(source_losses, ratios),
    "entropy": selection.entropy_score(target_logits),
    "information": selection.im_score(target_logits),
    "bnm": selection.bnm_score(target_logits),
    "snd": selection.snd_score(neighbours),
  }


def choose(rule: str, scores: Mapping[str, np.ndarray]) -> int:
  """The place of the candidate that a rule chooses by scores `[candidates]`."""
  if rule != "guarded":
    return int(np.argmax(scores[rule]))
  # Information alone may reward confident nonsense, and source accuracy alone
  # is blind to the target: the one is the guard of the other.
  source = scores["source_accuracy"]
  good = source >= source.max() - 0.02
  return int(np.argmax(np.where(good, scores["information"], -np.inf)))
