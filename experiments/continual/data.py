"""Streams of tasks: classes that are split, or images that change."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata

TURNED = 1000  # images that are turned at once
# MNIST-360: the number of times that the pairs of classes come around, and the
# angle between the first images of two classes that follow each other.
ROUNDS, STEP = 3, 60.0


class Part(NamedTuple):
  """The examples of a task, in their order, and what happens to the images."""

  rows: np.ndarray  # places in the data set
  change: Callable[[np.ndarray], np.ndarray]


class Stream(NamedTuple):
  """The tasks of a stream, on the host; images are uint8."""

  images: np.ndarray  # to train on, `[n, height, width, channels]`
  labels: np.ndarray  # int32 `[n]`
  test_images: np.ndarray
  test_labels: np.ndarray
  classes: tuple[tuple[int, ...], ...]  # the classes of each task
  parts: tuple[Part, ...]  # to train on, of each task
  test_parts: tuple[Part, ...]
  is_ordered: bool  # whether the order within a task is part of the stream

  @property
  def tasks(self) -> int:
    """Their number."""
    return len(self.classes)

  @property
  def num_classes(self) -> int:
    """Those of all tasks."""
    return 1 + max(max(task) for task in self.classes)

  @property
  def is_split(self) -> bool:
    """Whether tasks have classes of their own."""
    return set(self.classes[0]) != {c for task in self.classes for c in task}

  def train(self, task: int) -> dict[str, np.ndarray]:
    """The images and labels of a task."""
    rows, change = self.parts[task]
    return {"image": change(self.images[rows]), "label": self.labels[rows]}

  def test(self, task: int) -> dict[str, np.ndarray]:
    """The test images and labels of a task."""
    rows, change = self.test_parts[task]
    images, labels = self.test_images[rows], self.test_labels[rows]
    return {"image": change(images), "label": labels}


def keep(images: np.ndarray) -> np.ndarray:
  """The images."""
  return images


def permute(images: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Images with their pixels permuted."""
  return images.reshape(len(images), -1)[:, order].reshape(images.shape)


def turn(images: np.ndarray, degrees: Any) -> np.ndarray:
  """Images turned by degrees, one for all or one for each."""
  pieces = -(-len(images) // TURNED)
  degrees = np.broadcast_to(np.float32(degrees), (len(images),))
  pairs = zip(
    np.array_split(images, pieces), np.array_split(degrees, pieces), strict=True
  )
  return np.concatenate(
    [np.asarray(kdata.rotate(jnp.asarray(x), jnp.asarray(d))) for x, d in pairs]
  )


def load_stream(config: Any) -> Stream:
  """Reads a data set and makes tasks of it, the same ones for all seeds."""
  parts = [
    kdata.as_arrays(frame_data.read(config, name)) for name in ("train", "test")
  ]
  images, test_images = (np.asarray(part["image"]) for part in parts)
  labels, test_labels = (np.asarray(part["label"], np.int32) for part in parts)
  arrays = images, labels, test_images, test_labels
  count, tasks = int(labels.max()) + 1, config.tasks
  generator = np.random.default_rng(config.seed)
  if config.stream == "mnist_360":
    return Stream(*arrays, *turning_pairs(config, arrays, count, generator))
  every = tuple(range(count))
  classes: tuple[tuple[int, ...], ...] = (every,) * tasks
  changes: tuple[Callable[..., Any], ...] = (keep,) * tasks
  if config.stream == "split":
    if count % tasks or tasks == 1:
      raise ValueError(
        f"tasks is {tasks}; expected a number above 1 that divides {count}, "
        f"the classes of {config.dataset}."
      )
    size = count // tasks
    classes = tuple(every[i : i + size] for i in range(0, count, size))
  elif config.stream == "permuted":
    pixels = int(np.prod(images.shape[1:]))
    changes = tuple(
      functools.partial(permute, order=generator.permutation(pixels))
      for _ in range(tasks)
    )
  else:
    changes = tuple(
      functools.partial(turn, degrees=x)
      for x in generator.uniform(0, 180, tasks)
    )
  own, test = (
    tuple(
      Part(np.flatnonzero(np.isin(part, task)), change)
      for task, change in zip(classes, changes, strict=True)
    )
    for part in (labels, test_labels)
  )
  return Stream(*arrays, classes, own, test, is_ordered=False)


def turning_pairs(
  config: Any,
  arrays: tuple[np.ndarray, ...],
  count: int,
  generator: np.random.Generator,
) -> tuple[Any, ...]:
  """MNIST-360: each class with the next one, while its images turn.

  The last class is left out (a nine is a turned six). Each class is in a sixth
  of its images twice a round, once with the class before and once with the one
  after it, in proportion to their numbers. Its images turn by 360 degrees over
  the stream. As mammoth's loaders do, which start anew for each image, an image
  is drawn from its sixth with replacement.
  """
  _, labels, _, test_labels = arrays
  count -= 1
  if config.tasks % count or config.tasks // count != ROUNDS:
    raise ValueError(
      f"tasks is {config.tasks}; expected {ROUNDS * count}, the pairs of "
      f"{count} classes of {config.dataset}, {ROUNDS} times."
    )
  pairs = [(c, (c + 1) % count) for c in range(count)] * ROUNDS
  shares, angles, test_angles = {}, {}, np.zeros(len(test_labels))
  for c in range(count):
    rows = np.flatnonzero(labels == c)
    size = len(rows) // (2 * ROUNDS) + 1
    pieces = [rows[i : i + size] for i in range(0, len(rows), size)]
    shares[c] = [generator.choice(x, len(x)) for x in pieces]
    degrees = STEP * (c - 1) + 360 / len(rows) * np.arange(len(rows))
    # The last piece, which is smaller, comes first.
    ends = np.cumsum([len(x) for x in reversed(pieces)])[:-1]
    angles[c] = np.split(degrees, ends)[::-1]
    rows = np.flatnonzero(test_labels == c)
    test_angles[rows] = 360 / len(rows) * np.arange(len(rows))
  own, test = [], []
  for pair in pairs:
    drawn = [(shares[c].pop(), angles[c].pop()) for c in pair]
    rows, degrees = (np.concatenate(x) for x in zip(*drawn, strict=True))
    # Both classes come to their ends together.
    place = np.concatenate(
      [(np.arange(len(x)) + 0.5) / len(x) for x, _ in drawn]
    )
    order = np.argsort(place, kind="stable")
    change = functools.partial(turn, degrees=degrees[order])
    own.append(Part(rows[order], change))
    rows = np.flatnonzero(np.isin(test_labels, pair))
    change = functools.partial(turn, degrees=test_angles[rows])
    test.append(Part(rows, change))
  return tuple(pairs), tuple(own), tuple(test), True


def padded(part: dict[str, np.ndarray], size: int) -> dict[str, Any]:
  """A part on the device, filled up with zeros to so many images."""

  def pad(x: np.ndarray) -> Any:
    rest = [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)]
    return jax.device_put(np.pad(x, rest))

  return {k: pad(x) for k, x in part.items()}


def tests_of(stream: Stream) -> dict[str, Any]:
  """The test images of all tasks, `[tasks, n, ...]`, and which are images."""
  parts = [stream.test(task) for task in range(stream.tasks)]
  size = max(len(part["label"]) for part in parts)
  rows = [padded(part, size) for part in parts]
  stacked = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
  counts = np.array([len(part["label"]) for part in parts])
  stacked["mask"] = np.arange(size) < counts[:, None]
  return jax.device_put(stacked)
