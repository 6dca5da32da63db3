"""Streams of tasks: classes that are split, or images that change."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame import data as frame_data
from kdjax import data as kdata

TEST_BATCH = 1000  # images that are turned at once


class Stream(NamedTuple):
  """The tasks of a stream, on the host; images are uint8."""

  images: np.ndarray  # to train on, `[n, height, width, channels]`
  labels: np.ndarray  # int32 `[n]`
  test_images: np.ndarray
  test_labels: np.ndarray
  classes: tuple[tuple[int, ...], ...]  # the classes of each task
  changes: tuple[Any, ...]  # of each task: a permutation, degrees or None

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
    return self._part(self.images, self.labels, task)

  def test(self, task: int) -> dict[str, np.ndarray]:
    """The test images and labels of a task."""
    return self._part(self.test_images, self.test_labels, task)

  def _part(self, images: Any, labels: Any, task: int) -> dict[str, Any]:
    own = np.isin(labels, self.classes[task])
    return {
      "image": changed(images[own], self.changes[task]),
      "label": labels[own],
    }


def changed(images: np.ndarray, change: Any) -> np.ndarray:
  """Images with their pixels permuted, or turned by degrees."""
  if change is None:
    return images
  if isinstance(change, np.ndarray):
    return images.reshape(len(images), -1)[:, change].reshape(images.shape)
  parts = np.array_split(images, -(-len(images) // TEST_BATCH))
  return np.concatenate(
    [np.asarray(kdata.rotate(jnp.asarray(x), change)) for x in parts]
  )


def load_stream(config: Any) -> Stream:
  """Reads a data set and makes tasks of it, the same ones for all seeds."""
  parts = [
    kdata.as_arrays(frame_data.read(config, name)) for name in ("train", "test")
  ]
  images, test_images = (np.asarray(part["image"]) for part in parts)
  labels, test_labels = (np.asarray(part["label"], np.int32) for part in parts)
  count, tasks = int(labels.max()) + 1, config.tasks
  generator = np.random.default_rng(config.seed)
  every = tuple(range(count))
  classes: tuple[tuple[int, ...], ...] = (every,) * tasks
  changes: tuple[Any, ...] = (None,) * tasks
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
    changes = tuple(generator.permutation(pixels) for _ in range(tasks))
  else:
    changes = tuple(map(float, generator.uniform(0, 180, tasks)))
  return Stream(images, labels, test_images, test_labels, classes, changes)


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
