"""Scores of pitches, in the definition of mir_eval."""

import numpy as np

TOLERANCE = 50.0  # cents


def cents_apart(found: np.ndarray, true: np.ndarray) -> np.ndarray:
  """The distances of pitches `[n]` in Hz, in cents."""
  return 1200 * np.abs(np.log2(np.asarray(found) / np.asarray(true)))


def raw_pitch_accuracy(found: np.ndarray, true: np.ndarray) -> float:
  """The share of voiced frames `[n]` whose pitch is less than 50 cents off."""
  return float(np.mean(cents_apart(found, true) < TOLERANCE))


def score(
  found: np.ndarray, true: np.ndarray, kind: np.ndarray, kinds: list[str]
) -> dict[str, float]:
  """The accuracy, also of each kind of sound, and the median distance."""
  scores = {
    "accuracy": raw_pitch_accuracy(found, true),
    "cents": float(np.median(cents_apart(found, true))),
  }
  for i, name in enumerate(kinds):
    scores[name] = raw_pitch_accuracy(found[kind == i], true[kind == i])
  return scores
