"""Four shifts of two-dimensional classes, as skada-bench simulates them.

The source has a wide class and a class of small clusters beside it. The target
is drawn from one part of the plane (covariate), with other shares of the
classes (target), scaled and moved (concept), or is another source, mirrored
at the origin (subspace): there the classes exchange their places, but along
one direction a single rule holds for both domains.
"""

from typing import NamedTuple

import numpy as np

SHIFTS = ("covariate", "target", "concept", "subspace")
# Standard deviation of the noise added to each coordinate.
NOISE = {"covariate": 0.6, "target": 0.8, "concept": 0.8, "subspace": 0.4}

# A cluster: its number of units of points, its mean and the matrix of standard
# normal points (a disc: of points spread evenly over the unit disc).
_DISC = (4, (2.0, 2.0), ((2.0, -0.5), (-0.5, 2.0)))
_BESIDE = (
  (1, (-1.5, 3.0), ((0.15, 0.0), (0.0, 0.3))),
  (1, (-0.5, 1.0), ((0.2, -0.1), (-0.1, 0.2))),
  (1, (1.0, -0.4), ((0.17, -0.05), (-0.05, 0.17))),
  (1, (3.0, -1.0), ((0.3, 0.0), (0.0, 0.15))),
)
_LEFT = (2, (-1.0, 1.0), ((0.5, 0.0), (0.0, 0.5)))
_AROUND = (
  (1, (1.5, 0.5), ((0.1, 0.0), (0.0, 0.1))),
  (1, (-0.5, -1.5), ((0.2, 0.0), (0.0, 0.2))),
)
_CENTRE, _RATE = (-0.4, 3.0), 2.0  # of the covariate shift
_SHARE = 0.9  # of the wide class after the target shift
_SCALE, _MOVE = 0.7, 1.0  # of the concept shift


class Sample(NamedTuple):
  """Points and their classes."""

  points: np.ndarray  # `[rows, 2]`, float32
  labels: np.ndarray  # `[rows]`, int32, 0 or 1


def draw(
  generator: np.random.Generator, shift: str, domain: str, size: int
) -> Sample:
  """Draws a sample of a domain, in random order."""
  shifted = domain == "target"
  if shift == "subspace":
    points, labels = _subspace(generator, 3 * size)
    points = -points if shifted else points
  else:
    factor = {"covariate": 100, "target": 3}.get(shift, 1) if shifted else 1
    points, labels = _plane(generator, factor * size)
    if shifted and shift == "concept":
      points = _SCALE * points + _MOVE
    elif shifted:
      rows = _PICK[shift](generator, points, 8 * size)
      points, labels = points[rows], labels[rows]
  points = points + generator.normal(scale=NOISE[shift], size=points.shape)
  order = generator.permutation(len(labels))
  return Sample(
    points[order].astype(np.float32), labels[order].astype(np.int32)
  )


def _plane(generator: np.random.Generator, size: int) -> Sample:
  """The wide class, 0, and four clusters beside it; 8 `size` points."""
  share, mean, matrix = _DISC
  angles = generator.uniform(0, 2 * np.pi, share * size)
  radii = np.sqrt(generator.uniform(size=share * size))[:, None]
  disc = radii * np.stack([np.cos(angles), np.sin(angles)], 1)
  beside = [_cluster(generator, size, *cluster) for cluster in _BESIDE]
  points = np.concatenate([disc @ np.array(matrix) + mean, *beside])
  return Sample(points, np.repeat((0, 1), 4 * size))


def _subspace(generator: np.random.Generator, size: int) -> Sample:
  """A cluster, 0, and two clusters of class 1; 4 `size` points."""
  clusters = [_cluster(generator, size, *x) for x in (_LEFT, *_AROUND)]
  return Sample(np.concatenate(clusters), np.repeat((0, 1), 2 * size))


def _cluster(
  generator: np.random.Generator,
  size: int,
  share: int,
  mean: tuple[float, float],
  matrix: tuple[tuple[float, float], ...],
) -> np.ndarray:
  return generator.normal(size=(share * size, 2)) @ np.array(matrix) + mean


def _near_the_centre(
  generator: np.random.Generator, points: np.ndarray, count: int
) -> np.ndarray:
  """Rows drawn one after the other, more likely near the center."""
  logs = -_RATE * np.sum(np.square(points - _CENTRE), 1)
  # The largest of log weight + Gumbel noise are such a draw.
  keys = logs + generator.gumbel(size=len(points))
  return np.argpartition(-keys, count)[:count]


def _mostly_wide(
  generator: np.random.Generator, points: np.ndarray, count: int
) -> np.ndarray:
  """Rows of which nine in ten are of the wide class."""
  half, wide = len(points) // 2, int(_SHARE * count)
  return np.concatenate(
    [
      generator.choice(half, wide, replace=False),
      half + generator.choice(half, count - wide, replace=False),
    ]
  )


_PICK = {"covariate": _near_the_centre, "target": _mostly_wide}
