"""Rules that choose a hyper-parameter without target labels."""

from collections.abc import Mapping

import numpy as np

# Rule -> its score, of source and target validation examples.
RULES = {
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


def choose(rule: str, scores: Mapping[str, np.ndarray]) -> int:
  """The candidate that a rule chooses.

  Args:
    rule: a name of `RULES`.
    scores: of all rules but guarded, `[candidates]`; higher is better.

  Returns:
    The place of the best candidate, the first among equals.
  """
  if rule != "guarded":
    return int(np.argmax(scores[rule]))
  # Information alone may reward confident nonsense, and source accuracy alone
  # is blind to the target: the one is the guard of the other.
  source = scores["source_accuracy"]
  good = source >= source.max() - 0.02
  return int(np.argmax(np.where(good, scores["information"], -np.inf)))
