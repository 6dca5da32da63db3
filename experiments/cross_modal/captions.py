"""Captions of digits: their label and what can be measured in the image."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.cross_modal.sounds import WORDS

WEIGHTS = ("thin", "medium", "thick")  # thirds of the ink of training images
SLANTS = ("leaning", "upright", "slanted")  # thirds of their slant
VOCABULARY = ("a", *WEIGHTS, *SLANTS, *WORDS)
LENGTH = 4  # words of a caption
# Every caption, as words of its image's thirds and label.
CAPTIONS = tuple(
  f"a {weight} {slant} {word}"
  for weight, slant, word in itertools.product(WEIGHTS, SLANTS, WORDS)
)


class Thirds(NamedTuple):
  """The bounds of the thirds of training images."""

  ink: np.ndarray
  slant: np.ndarray


def measure(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The ink and the slant of images `[n, height, width, 1]`."""
  mass = np.asarray(images, np.float64)[..., 0]
  total = mass.sum((1, 2))
  ys, xs = np.mgrid[: mass.shape[1], : mass.shape[2]]
  y, x = (
    grid - (mass * grid).sum((1, 2), keepdims=True) / total[:, None, None]
    for grid in (ys, xs)
  )
  shear = (mass * x * y).sum((1, 2)) / (mass * y * y).sum((1, 2))
  # Rows count downwards: an image whose top is to the right is slanted.
  return total / mass[0].size, -shear


def find_thirds(images: np.ndarray) -> Thirds:
  """The bounds that divide images into thirds."""
  return Thirds(*(np.quantile(x, (1 / 3, 2 / 3)) for x in measure(images)))


def describe(
  images: np.ndarray, labels: np.ndarray, thirds: Thirds
) -> np.ndarray:
  """The number of each image's caption, `[n]`."""
  weight, slant = (
    np.searchsorted(bounds, values)
    for bounds, values in zip(thirds, measure(images), strict=True)
  )
  return (weight * len(SLANTS) + slant) * len(WORDS) + labels


def tokenise(text: str) -> list[int]:
  """The numbers of a caption's words."""
  return [VOCABULARY.index(word) for word in text.split()]


def all_tokens() -> np.ndarray:
  """The words of every caption, `[captions, words]`."""
  return np.array([tokenise(text) for text in CAPTIONS], np.int32)


def digit_of(caption: Any) -> Any:
  """The label in a caption, by its number."""
  return caption % len(WORDS)
